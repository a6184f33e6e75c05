// In which frame a file of gaussians is, and the rotation that turns it into the mesh's (+y up, as glTF).
import { Quaternion } from "./vendor/three-spark.min.js";

const HALF = Math.SQRT1_2;
const TURNS = {
  "y": [0, 0, 0, 1], // +y up
  "-y": [1, 0, 0, 0], // +y down, +z forward: turned by 180 degrees about x
  "z": [-HALF, 0, 0, HALF], // +z up: (x, y, z) -> (x, z, -y)
  "camera": [0, 1, 0, 0], // +x left, +y up, +z forward: (x, y, z) -> (-x, y, -z)
};

export function uprightOf(bytes, name, asked) {
  return new Quaternion(...TURNS[asked in TURNS ? asked : frameOf(bytes, name)]);
}

function frameOf(bytes, name) {
  if (!name.toLowerCase().endsWith(".ply")) return "y";
  return name.startsWith("scene") ? "camera" : "z";
}
