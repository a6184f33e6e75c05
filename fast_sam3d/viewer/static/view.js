// Where a pane's camera stands.
import { Vector3 } from "./vendor/three-spark.min.js";
import { firstDirection } from "./facts.js";

const FOV_DEG = 40, RAISED_DEG = 20, FREE = 1.08;

export function place(pane, { bounds, pose }) {
  const target = bounds.getCenter(new Vector3());
  const from = firstDirection(pose, target.toArray(), RAISED_DEG);
  const back = new Vector3(...from).normalize(), side = new Vector3(0, 1, 0).cross(back);
  if (side.length() < 1e-6) side.set(1, 0, 0);
  const up = back.clone().cross(side.normalize());
  // As near as all corners of the box allow.
  const tall = Math.tan((FOV_DEG / 2) * (Math.PI / 180)), wide = tall * pane.camera.aspect;
  let distance = 0;
  for (const x of [bounds.min.x, bounds.max.x]) for (const y of [bounds.min.y, bounds.max.y]) for (const z of [bounds.min.z, bounds.max.z]) {
    const corner = new Vector3(x, y, z).sub(target);
    const off = Math.max(Math.abs(corner.dot(side)) / wide, Math.abs(corner.dot(up)) / tall);
    distance = Math.max(distance, corner.dot(back) + FREE * off);
  }
  look(pane, { eye: back.multiplyScalar(distance || 1).add(target), target, fov: FOV_DEG });
}

export function look(pane, { eye, target, fov }) {
  pane.camera.position.set(...eye);
  pane.controls.target.set(...target);
  const distance = pane.camera.position.distanceTo(pane.controls.target);
  Object.assign(pane.camera, { fov, near: distance / 100, far: distance * 100 });
  pane.camera.updateProjectionMatrix();
  pane.quiet = true;
  pane.controls.update();
  pane.quiet = false;
  pane.redraw();
}
