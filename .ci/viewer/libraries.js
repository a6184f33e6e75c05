// What the viewer uses of three.js and Spark, bundled into one file by `make vendor`.
export {
  AmbientLight, Box3, Color, DirectionalLight, DoubleSide, MeshBasicMaterial, MeshLambertMaterial, MeshNormalMaterial,
  PerspectiveCamera, Quaternion, Scene, SRGBColorSpace, Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
export { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
export { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
