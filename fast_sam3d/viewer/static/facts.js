// What pose.json, scene.json and report.json say, in rows of text; and from where the picture saw the object.

const numbers = (values, digits = 3) => values.map((value) => Number(value).toFixed(digits)).join("  ");

const texts = (found) => (Array.isArray(found?.notices) ? found.notices.map(String) : []);

// Of an object; of a scene those of every object, and those of the model, which are in the report of each object.
export function notices(report, pose) {
  const objects = Array.isArray(pose?.objects) ? pose.objects : [], own = new Set(objects.flatMap(texts));
  const parts = objects.flatMap((item) => texts(item).map((text) => `object ${item.name}: ${text}`));
  return [...texts(report).filter((text) => !own.has(text)), ...parts];
}

// Direction from the middle of what is shown to the first eye: to the picture's camera where it is known, else from the
// front and above. In the mesh's frame, +y up; that of a scene has the picture's camera at its origin.
export function firstDirection(pose, middle, raisedDeg) {
  const raised = (raisedDeg * Math.PI) / 180, matrix = pose?.object_to_camera;
  let found = Array.isArray(pose?.objects) ? middle.map((value) => -value) : [NaN];
  if (Array.isArray(matrix)) {
    // The eye is -M^-1 t; the inverse of a scaled rotation is its transpose over the scale's square, which is positive.
    const [x, y, z] = [0, 1, 2].map((axis) => -[0, 1, 2].reduce((sum, row) => sum + matrix[row][axis] * matrix[row][3], 0));
    found = [x, z, -y];
  }
  return found.every(Number.isFinite) && Math.hypot(...found) > 1e-9 ? found : [0, Math.sin(raised), Math.cos(raised)];
}

export function poseFacts(pose) {
  const rows = [];
  if (pose.rotation) rows.push(["rotation (w x y z)", numbers(pose.rotation)]);
  if (pose.translation) rows.push(["translation", numbers(pose.translation)]);
  if (pose.scale) rows.push(["scale", numbers(pose.scale)]);
  if (Array.isArray(pose.objects)) rows.push(["objects", String(pose.objects.length)]);
  if (Number.isFinite(pose.mean_mask_iou)) rows.push(["mean mask IoU", pose.mean_mask_iou.toFixed(3)]);
  return rows;
}

// Of an object; of a scene, with the report of one of its objects, what is the same for all.
export function reportFacts(report, scene) {
  const rows = [], { result, pipeline, preset, seed, total_seconds: seconds, network_calls: calls } = report;
  const faces = result?.mesh?.written?.faces ?? result?.mesh?.faces;
  if (faces && !scene) rows.push(["mesh", `${faces.toLocaleString("en")} faces`]);
  if (result?.gaussians && !scene) rows.push(["gaussians", result.gaussians.toLocaleString("en")]);
  if (pipeline?.tag) rows.push(["model", `${pipeline.tag} (${pipeline.runtime}, ${pipeline.device})`]);
  if (preset !== undefined) rows.push(["preset", preset ?? "none"]);
  if (seed !== undefined) rows.push(["seed", String(seed)]);
  if (scene) return rows;
  if (Number.isFinite(seconds)) rows.push(["seconds", seconds.toFixed(2)]);
  const sum = (key) => Object.values(calls ?? {}).reduce((total, stage) => total + (stage[key] ?? 0), 0);
  if (calls) rows.push(["network calls", `${sum("made")} made, ${sum("saved")} saved`]);
  return rows;
}
