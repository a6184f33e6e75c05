// In which frame a file of gaussians is, and the rotation that turns it into the mesh's (+y up, as glTF).
import { Quaternion } from "./vendor/three-spark.min.js";

const HALF = Math.SQRT1_2;
const TURNS = {
  "y": [0, 0, 0, 1], // +x right, +y up, +z backward: .spz
  "-y": [1, 0, 0, 0], // +x right, +y down, +z forward: .ply and .sog
  "z": [-HALF, 0, 0, HALF], // +z up: (x, y, z) -> (x, z, -y)
  "camera": [0, 1, 0, 0], // +x left, +y up, +z forward: (x, y, z) -> (-x, y, -z)
};
const HEADER_BYTES = 4096;

export function uprightOf(bytes, name, asked) {
  return new Quaternion(...TURNS[asked in TURNS ? asked : frameOf(bytes, name.toLowerCase())]);
}

function frameOf(bytes, name) {
  if (name.endsWith(".spz")) return "y";
  const header = new TextDecoder("latin1").decode(bytes.subarray(0, HEADER_BYTES));
  // Our former files and those of the stock code have no such comment, and object coordinates.
  if (!name.endsWith(".ply") || header.includes("comment frame:")) return "-y";
  return name.startsWith("scene") ? "camera" : name.startsWith("gaussians") ? "z" : "-y";
}
