// Reads files of meshes and gaussians, each as an object of three.js.
import {
  Box3, Color, DoubleSide, GLTFLoader, MeshBasicMaterial, MeshLambertMaterial, MeshNormalMaterial, SplatMesh, Vector3,
} from "./vendor/three-spark.min.js";
import { uprightOf } from "./frames.js";

export const nameOf = (address) => decodeURIComponent(new URL(address, location).pathname.split("/").pop());

export async function fetched(address, progress) {
  const url = new URL(address, location);
  if (url.origin !== location.origin) throw new Error("is not on this server, and the viewer loads nothing else");
  const answer = await fetch(url).catch(() => { throw new Error("could not be loaded: the server does not answer"); });
  if (!answer.ok) throw new Error(`could not be loaded (${answer.status} ${answer.statusText})`);
  if (!progress) return new Uint8Array(await answer.arrayBuffer());
  const parts = [], total = Number(answer.headers.get("content-length"));
  let loaded = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read().catch(() => { throw new Error("stopped in the middle: reload the page"); });
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress(total ? `${Math.min(100, Math.round((100 * loaded) / total))} %` : `${(loaded / 1e6).toFixed(1)} MB`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function loadedMesh(bytes) {
  const read = await new GLTFLoader().parseAsync(bytes.buffer, "").catch(() => { throw new Error("is not a glTF file that opens here"); });
  const points = read.parser.json.extensionsUsed?.includes("KHR_gaussian_splatting");
  read.scene.userData.remark = points ? "drawn as points: open the .ply or .spz to see these gaussians" : "";
  return read.scene;
}

async function loadedSplats(bytes, address, up) {
  const splats = new SplatMesh({ fileBytes: bytes, fileName: nameOf(address) });
  await splats.initialized.catch(() => { throw new Error("is not a file of gaussians that opens here"); });
  splats.quaternion.copy(uprightOf(bytes, nameOf(address), up));
  splats.updateMatrixWorld(true);
  return splats;
}

// The box of all but the outermost centres: single stray gaussians must not make the object small.
function boundsOfSplats(splats) {
  const axes = [[], [], []], step = Math.ceil(splats.splats.getNumSplats() / 50000), point = new Vector3();
  splats.forEachSplat((index, centre, scales, turn, opacity) => {
    if (index % step || opacity < 0.1) return;
    point.copy(centre).applyMatrix4(splats.matrixWorld).toArray().forEach((value, axis) => axes[axis].push(value));
  });
  if (!axes[0].length) return new Box3();
  axes.forEach((values) => values.sort((a, b) => a - b));
  const at = (share) => new Vector3(...axes.map((values) => values[Math.floor(share * (values.length - 1))]));
  return new Box3(at(0.002), at(0.998));
}

export const loaded = { mesh: loadedMesh, splats: loadedSplats };
export const boundsOf = { mesh: (content) => new Box3().setFromObject(content), splats: boundsOfSplats };

export function shade(content, shading) {
  content.traverse((part) => {
    if (!part.isMesh) return;
    part.userData.given ??= part.material;
    const { map, color } = part.userData.given, vertexColors = Boolean(part.geometry.attributes.color);
    if (!part.geometry.attributes.normal) part.geometry.computeVertexNormals();
    const kinds = { colours: MeshBasicMaterial, shaded: MeshLambertMaterial, normals: MeshNormalMaterial };
    if (part.material !== part.userData.given) part.material.dispose();
    const own = shading === "normals" ? {} : { map, color: color ?? new Color(1, 1, 1), vertexColors };
    part.material = new kinds[shading]({ ...own, side: DoubleSide });
  });
}

export function dispose(content) {
  content.traverse((part) => {
    part.geometry?.dispose();
    for (const material of [part.material, part.userData.given].flat()) {
      material?.map?.dispose();
      material?.dispose();
    }
  });
  content.dispose?.();
}

// A triangle and a gaussian, to have everything compiled before there is a result.
export function sample(kind) {
  if (kind === "splats") {
    const names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"];
    const header = `ply\nformat binary_little_endian 1.0\nelement vertex 1\n${names.map((name) => `property float ${name}\n`).join("")}end_header\n`;
    const values = new Float32Array([0, 0, 0, 0, 0, 0, 5, -3, -3, -3, 1, 0, 0, 0]);
    return new Blob([header, values]).arrayBuffer().then((buffer) => new Uint8Array(buffer));
  }
  const corners = new Float32Array([0, 0, 0, 1, 0, 0, 0, 1, 0]), white = new Float32Array(9).fill(1);
  const buffers = [corners, white].map((values) => ({
    uri: `data:;base64,${btoa(String.fromCharCode(...new Uint8Array(values.buffer)))}`, byteLength: 36,
  }));
  const json = {
    asset: { version: "2.0" }, scenes: [{ nodes: [0] }], nodes: [{ mesh: 0 }], buffers,
    meshes: [{ primitives: [{ attributes: { POSITION: 0, COLOR_0: 1 } }] }],
    accessors: [0, 1].map((bufferView) => ({ bufferView, componentType: 5126, count: 3, type: "VEC3", min: [0, 0, 0], max: [1, 1, 1] })),
    bufferViews: [0, 1].map((buffer) => ({ buffer, byteLength: 36 })),
  };
  return Promise.resolve(new TextEncoder().encode(JSON.stringify(json)));
}
