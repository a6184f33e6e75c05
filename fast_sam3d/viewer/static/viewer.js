// The viewer page. What it shows is in its address; see fast_sam3d/viewer/__init__.py for the parameters.
import {
  AmbientLight, Box3, Color, DirectionalLight, DoubleSide, GLTFLoader, MeshBasicMaterial, MeshLambertMaterial,
  MeshNormalMaterial, OrbitControls, PerspectiveCamera, Scene, SparkRenderer, SplatMesh, SRGBColorSpace, Vector3,
  WebGLRenderer,
} from "./vendor/three-spark.min.js";
import { firstDirection, notices, poseFacts, reportFacts } from "./facts.js";
import { uprightOf } from "./frames.js";

const FOV_DEG = 40, RAISED_DEG = 20, FREE = 1.08, NARROW_PX = 560;
const asked = new URLSearchParams(location.search);
const element = (id) => document.getElementById(id);
const panes = [];
let shading = asked.get("shading") ?? "colours", moved = false;
const home = { bounds: null, pose: null }; // what the first view depends on

// ------------------------------------------------------------------------------------------------------------ panes

class Pane {
  constructor(kind, address, label) {
    Object.assign(this, { kind, address, label, state: "loading", due: false, content: null });
    this.box = element("panes").appendChild(document.createElement("section"));
    this.box.className = "pane";
    this.box.setAttribute("aria-label", label);
    this.box.innerHTML = '<canvas tabindex="0"></canvas><div class="label"></div><div class="status" role="status"></div>';
    this.canvas = this.box.querySelector("canvas");
    this.box.querySelector(".label").textContent = label;
    this.renderer = new WebGLRenderer({ canvas: this.canvas, antialias: kind === "mesh", alpha: true });
    this.renderer.outputColorSpace = SRGBColorSpace;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(FOV_DEG, 1, 0.01, 100);
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.listenToKeyEvents(this.canvas);
    this.controls.addEventListener("start", () => { moved = true; });
    this.controls.addEventListener("change", () => { this.redraw(); follow(this); });
    this.canvas.addEventListener("webglcontextlost", () => this.fail("the browser has stopped its 3D graphics: reload the page"));
    new ResizeObserver(() => this.resize()).observe(this.box);
    if (kind === "mesh") this.light();
    else this.scene.add(this.spark = new SparkRenderer({ renderer: this.renderer, onDirty: () => this.redraw() }));
  }

  light() {
    const lamp = new DirectionalLight(0xffffff, 0.5 * Math.PI);
    lamp.position.set(-0.35, 0.5, 0.8);
    this.scene.add(new AmbientLight(0xffffff, 0.5 * Math.PI), this.camera);
    this.camera.add(lamp, lamp.target);
  }

  async load() {
    try {
      const bytes = await fetched(this.address, (share) => this.say(`loading ${share}`));
      this.say("");
      this.content = await (this.kind === "mesh" ? loadedMesh(bytes) : loadedSplats(bytes, this.address));
      this.scene.add(this.content);
      this.say(this.content.userData.remark ?? "");
      this.bounds = this.kind === "mesh" ? new Box3().setFromObject(this.content) : boundsOfSplats(this.content);
      if (this.bounds.isEmpty()) throw new Error("holds nothing to show");
      if (this.kind === "mesh") shade(this.content);
      this.state = "loaded";
      arrange();
    } catch (error) {
      this.fail(`${nameOf(this.address)} ${error.message}`);
    }
  }

  say(text) { this.box.querySelector(".status").textContent = text; }

  fail(text) {
    this.state = "failed";
    this.box.classList.add("failed");
    this.say(text);
    report();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    if (!moved && home.bounds) place(this);
    this.camera.updateProjectionMatrix();
    this.redraw();
  }

  redraw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  draw() {
    if (this.state === "failed" || this.box.hidden) return;
    if (this.controls.autoRotate) this.controls.update();
    this.renderer.render(this.scene, this.camera);
    // Splats appear one sort after they were loaded; `onDirty` draws again then.
    if (this.state === "loaded" && (this.kind === "mesh" || this.spark.activeSplats > 0)) {
      this.state = "ready";
      report();
    }
    if (this.controls.autoRotate) this.redraw();
  }
}

// ---------------------------------------------------------------------------------------------------------- loading

const nameOf = (address) => decodeURIComponent(new URL(address, location).pathname.split("/").pop());

async function fetched(address, progress) {
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

async function loadedSplats(bytes, address) {
  const splats = new SplatMesh({ fileBytes: bytes, fileName: nameOf(address) });
  await splats.initialized.catch(() => { throw new Error("is not a file of gaussians that opens here"); });
  splats.quaternion.copy(uprightOf(bytes, nameOf(address), asked.get("up")));
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

function shade(content) {
  content.traverse((part) => {
    if (!part.isMesh) return;
    part.userData.given ??= part.material;
    const { map, color } = part.userData.given, vertexColors = Boolean(part.geometry.attributes.color);
    if (!part.geometry.attributes.normal) part.geometry.computeVertexNormals();
    const kinds = { colours: MeshBasicMaterial, shaded: MeshLambertMaterial, normals: MeshNormalMaterial };
    const own = shading === "normals" ? {} : { map, color: color ?? new Color(1, 1, 1), vertexColors };
    part.material = new kinds[shading]({ ...own, side: DoubleSide });
  });
}

// ------------------------------------------------------------------------------------------------------------- view

// All panes look from the same place; each has the distance at which everything fits into its own shape.
function arrange() {
  const loaded = panes.filter((pane) => pane.bounds);
  const trusted = loaded.some((pane) => pane.kind === "mesh") ? loaded.filter((pane) => pane.kind === "mesh") : loaded;
  home.bounds = trusted.reduce((all, pane) => all.union(pane.bounds), new Box3());
  for (const pane of panes) if (!moved) place(pane); else pane.redraw();
}

function place(pane) {
  const { bounds, pose } = home, target = bounds.getCenter(new Vector3());
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

function look(pane, { eye, target, fov }) {
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

function follow(leader) {
  if (leader.quiet || !(moved || leader.controls.autoRotate)) return;
  for (const pane of panes) {
    if (pane === leader) continue;
    const away = leader.camera.position.clone().sub(leader.controls.target);
    look(pane, { eye: away.add(leader.controls.target), target: leader.controls.target, fov: leader.camera.fov });
  }
}

function reset() {
  moved = false;
  for (const pane of panes) if (home.bounds) place(pane);
}

// ------------------------------------------------------------------------------------------------------------- page

function report() {
  for (const pane of panes) pane.box.dataset.state = pane.state;
  const shown = panes.filter((pane) => !pane.box.hidden);
  const state = shown.some((pane) => pane.state === "failed") ? "failed"
    : shown.every((pane) => pane.state === "ready") ? "ready" : "loading";
  document.body.dataset.state = state;
  if (window.parent !== window) window.parent.postMessage({ source: "fast_sam3d.viewer", state }, location.origin);
}

function show(chosen) {
  panes.forEach((pane, number) => { pane.box.hidden = chosen !== "all" && chosen !== String(number); });
  for (const button of element("choices").children) button.setAttribute("aria-pressed", button.dataset.shown === chosen);
  element("shading").hidden = !panes.some((pane) => pane.kind === "mesh" && !pane.box.hidden);
  panes.forEach((pane) => pane.resize());
  report();
}

function choices() {
  const all = [["all", "side by side"], ...panes.map((pane, number) => [String(number), pane.label])];
  for (const [shown, text] of panes.length > 1 ? all : []) {
    const button = element("choices").appendChild(document.createElement("button"));
    button.dataset.shown = shown;
    button.textContent = text;
    button.addEventListener("click", () => show(shown));
  }
  const first = asked.get("show") ?? (window.innerWidth < NARROW_PX ? "0" : "all");
  show(panes.length > 1 && all.some(([shown]) => shown === first) ? first : "all");
}

function buttons() {
  for (const button of element("shading").children) {
    button.addEventListener("click", () => {
      shading = button.dataset.shading;
      for (const other of element("shading").children) other.setAttribute("aria-pressed", other === button);
      for (const pane of panes) if (pane.kind === "mesh" && pane.content) { shade(pane.content); pane.redraw(); }
    });
    button.setAttribute("aria-pressed", button.dataset.shading === shading);
  }
  element("reset").addEventListener("click", reset);
  element("turn").addEventListener("click", () => {
    const on = element("turn").getAttribute("aria-pressed") !== "true";
    element("turn").setAttribute("aria-pressed", on);
    const leader = panes.find((pane) => !pane.box.hidden);
    for (const pane of panes) pane.controls.autoRotate = on && pane === leader;
    if (on) leader.redraw();
  });
}

async function details() {
  const found = {}, rows = [], texts = asked.getAll("notice");
  for (const [name, rowsOf] of [["pose", poseFacts], ["report", reportFacts]]) {
    const address = asked.get(name);
    if (!address) continue;
    try {
      found[name] = JSON.parse(new TextDecoder().decode(await fetched(address)));
      rows.push(...rowsOf(found[name]));
    } catch {
      texts.push(`${nameOf(address)} could not be read.`);
    }
  }
  home.pose = found.pose;
  for (const text of [...notices(found.report), ...texts]) {
    element("notices").appendChild(document.createElement("li")).textContent = text;
    element("notices").hidden = false;
  }
  for (const [name, value] of rows) {
    const row = element("facts").appendChild(document.createElement("div"));
    row.appendChild(document.createElement("dt")).textContent = name;
    row.appendChild(document.createElement("dd")).textContent = value;
    element("facts").hidden = false;
  }
}

async function start() {
  if (asked.get("theme")) document.documentElement.dataset.theme = asked.get("theme");
  if (!["colours", "shaded", "normals"].includes(shading)) shading = "colours";
  element("title").textContent = asked.get("title") ?? "";
  if (asked.get("title")) document.title = asked.get("title");
  const wanted = [...asked].filter(([name, value]) => (name === "mesh" || name === "splats") && value);
  const labels = asked.getAll("label"), names = { mesh: "mesh", splats: "gaussians" };
  if (!wanted.length) return stop("Nothing to show: the address names no mesh= and no splats=.");
  try {
    for (const [kind, address] of wanted) panes.push(new Pane(kind, address, labels[panes.length] || names[kind]));
  } catch {
    return stop("This browser has no WebGL 2, which the viewer needs: switch on hardware acceleration, or use another browser.");
  }
  window.viewer = { panes, look: (view) => { moved = true; for (const pane of panes) look(pane, view); }, picture, settled };
  choices();
  buttons();
  await details();
  await Promise.all(panes.map((pane) => pane.load()));
}

function stop(text) {
  element("panes").textContent = text;
  element("panes").classList.add("message");
  document.body.dataset.state = "failed";
}

// Resolves once every pane is drawn and its gaussians are sorted for the view, which a worker does.
async function settled() {
  const busy = ({ due, spark, state }) => due || state === "loaded" || Boolean(spark && (spark.sorting || spark.sortDirty));
  for (let calm = 0; calm < 4;) {
    await new Promise(requestAnimationFrame);
    calm = panes.some(busy) ? 0 : calm + 1;
  }
}

// A pane as a PNG, drawn now: a canvas is empty outside of the task that drew it.
function picture(number) {
  panes[number].draw();
  return panes[number].canvas.toDataURL("image/png");
}

start();
