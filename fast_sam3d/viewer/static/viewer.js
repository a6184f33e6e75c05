// The viewer page. What it shows is in its address; see fast_sam3d/viewer/__init__.py for the parameters.
import {
  AmbientLight, Box3, DirectionalLight, OrbitControls, PerspectiveCamera, Scene, SparkRenderer, SRGBColorSpace,
  WebGLRenderer,
} from "./vendor/three-spark.min.js";
import { notices, poseFacts, reportFacts } from "./facts.js";
import { boundsOf, dispose, fetched, loaded, nameOf, sample, shade } from "./load.js";
import { look, place } from "./view.js";

const NARROW_PX = 560, PANE_PX = 260;
const NAMES = { mesh: "mesh", splats: "gaussians" };
const EMPTY = "The result appears here.";
const asked = new URLSearchParams(location.search);
const element = (id) => document.getElementById(id);
const panes = [];
let shading = asked.get("shading") ?? "colours", moved = false, job = null, wanted = [], chosen = null;
const home = { bounds: null, pose: null }; // what the first view depends on

// ------------------------------------------------------------------------------------------------------------ panes

class Pane {
  constructor(kind) {
    Object.assign(this, { kind, state: "loading", due: false, content: null, turn: 0 });
    this.box = element("panes").appendChild(document.createElement("section"));
    this.box.className = "pane";
    this.box.innerHTML = '<canvas tabindex="0"></canvas><div class="label"></div><div class="status" role="status"></div>';
    this.canvas = this.box.querySelector("canvas");
    this.renderer = new WebGLRenderer({ canvas: this.canvas, antialias: kind === "mesh", alpha: true });
    this.renderer.outputColorSpace = SRGBColorSpace;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.scene = new Scene();
    this.camera = new PerspectiveCamera();
    this.controls = new OrbitControls(this.camera, this.canvas);
    this.controls.listenToKeyEvents(this.canvas);
    this.controls.addEventListener("start", () => { moved = true; });
    this.controls.addEventListener("change", () => { this.redraw(); follow(this); });
    this.canvas.addEventListener("webglcontextlost", () => this.fail("the browser has stopped its 3D graphics: reload the page"));
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.box);
    if (kind === "mesh") this.light();
    else this.scene.add(this.spark = new SparkRenderer({ renderer: this.renderer, onDirty: () => this.redraw() }));
  }

  light() {
    const lamp = new DirectionalLight(0xffffff, 0.5 * Math.PI);
    lamp.position.set(-0.35, 0.5, 0.8);
    this.scene.add(new AmbientLight(0xffffff, 0.5 * Math.PI), this.camera);
    this.camera.add(lamp, lamp.target);
  }

  name(label) {
    this.label = this.box.querySelector(".label").textContent = label;
    this.box.setAttribute("aria-label", label);
  }

  async load(address) {
    if (address === this.address && this.state !== "failed") return;
    const turn = ++this.turn; // only the last file that was asked for is shown
    Object.assign(this, { address, state: "loading" });
    this.box.classList.remove("failed");
    try {
      const bytes = await fetched(address, (share) => { if (turn === this.turn) this.say(`loading ${share}`); });
      const content = await loaded[this.kind](bytes, address, asked.get("up"));
      if (turn === this.turn) this.use(content);
      else dispose(content);
    } catch (error) {
      if (turn === this.turn) this.fail(`${nameOf(address)} ${error.message}`);
    }
  }

  use(content) {
    this.clear();
    this.scene.add(this.content = content);
    this.say(content.userData.remark ?? "");
    const bounds = boundsOf[this.kind](content);
    if (bounds.isEmpty()) throw new Error("holds nothing to show");
    this.bounds = bounds;
    if (this.kind === "mesh") shade(content, shading);
    this.state = "loaded";
    arrange();
  }

  clear() {
    if (!this.content) return;
    this.scene.remove(this.content);
    dispose(this.content);
    this.content = this.bounds = null;
  }

  forget() {
    this.turn += 1;
    Object.assign(this, { address: null, state: "loading" });
    this.clear();
    this.say("");
    this.redraw();
  }

  remove() {
    this.forget();
    this.observer.disconnect();
    this.controls.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
    this.box.remove();
  }

  // Draws a sample once, so that nothing is left to be compiled when there is a result.
  async prepare() {
    const turn = this.turn, content = await loaded[this.kind](await sample(this.kind), "sample.ply", "y");
    if (turn !== this.turn) return dispose(content);
    this.use(content);
    await new Promise((done) => { this.prepared = done; });
    if (turn === this.turn) this.forget();
  }

  say(text) { this.box.querySelector(".status").textContent = text; }

  fail(text) {
    if (!this.box.isConnected) return; // it was removed
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
    if (!moved && home.bounds) place(this, home);
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
      this.prepared?.();
      report();
    }
    if (this.controls.autoRotate) this.redraw();
  }
}

// ------------------------------------------------------------------------------------------------------------- view

// All panes look from the same place; each has the distance at which everything fits into its own shape.
function arrange() {
  const loaded = panes.filter((pane) => pane.bounds);
  const trusted = loaded.some((pane) => pane.kind === "mesh") ? loaded.filter((pane) => pane.kind === "mesh") : loaded;
  home.bounds = trusted.reduce((all, pane) => all.union(pane.bounds), new Box3());
  for (const pane of panes) if (!moved) place(pane, home); else pane.redraw();
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
  for (const pane of panes) if (home.bounds) place(pane, home);
}

// ------------------------------------------------------------------------------------------------------------- page

function report() {
  for (const pane of panes) pane.box.dataset.state = pane.state;
  const shown = panes.filter((pane) => !pane.box.hidden);
  const state = !wanted.length ? "empty" : shown.some((pane) => pane.state === "failed") ? "failed"
    : shown.every((pane) => pane.state === "ready") ? "ready" : "loading";
  document.body.dataset.state = state;
  if (window.parent !== window) window.parent.postMessage({ source: "fast_sam3d.viewer", state }, location.origin);
}

function show(which) {
  panes.forEach((pane, number) => { pane.box.hidden = which !== "all" && which !== String(number); });
  for (const button of element("choices").children) button.setAttribute("aria-pressed", button.dataset.shown === which);
  element("shading").hidden = !panes.some((pane) => pane.kind === "mesh" && !pane.box.hidden);
  fold();
  panes.forEach((pane) => pane.resize());
  report();
}

// More than two panes are in two rows where they would be too narrow.
function fold() {
  const count = panes.filter((pane) => !pane.box.hidden).length;
  const narrow = count > 2 && window.innerWidth < count * PANE_PX;
  element("panes").style.gridTemplateColumns = `repeat(${narrow ? Math.ceil(count / 2) : Math.max(count, 1)}, minmax(0, 1fr))`;
}

function choices() {
  element("choices").textContent = "";
  const all = [["all", "side by side"], ...panes.map((pane, number) => [String(number), pane.label])];
  for (const [shown, text] of panes.length > 1 ? all : []) {
    const button = element("choices").appendChild(document.createElement("button"));
    button.dataset.shown = shown;
    button.textContent = text;
    button.addEventListener("click", () => { chosen = shown; show(shown); });
  }
  const there = [chosen, asked.get("show")].find((which) => all.some(([shown]) => shown === which));
  show(panes.length < 2 ? "all" : there ?? (window.innerWidth < NARROW_PX ? "0" : "all"));
}

function buttons() {
  for (const button of element("shading").children) {
    button.addEventListener("click", () => {
      shading = button.dataset.shading;
      for (const other of element("shading").children) other.setAttribute("aria-pressed", other === button);
      for (const pane of panes) if (pane.kind === "mesh" && pane.content) { shade(pane.content, shading); pane.redraw(); }
    });
    button.setAttribute("aria-pressed", button.dataset.shading === shading);
  }
  element("reset").addEventListener("click", reset);
  element("turn").addEventListener("click", () => {
    element("turn").setAttribute("aria-pressed", element("turn").getAttribute("aria-pressed") !== "true");
    turn();
  });
  window.addEventListener("resize", fold);
}

function turn() {
  const on = element("turn").getAttribute("aria-pressed") === "true", leader = panes.find((pane) => !pane.box.hidden);
  for (const pane of panes) pane.controls.autoRotate = on && pane === leader;
  if (on) leader?.redraw();
}

// Shows files in as many panes; panes that are there already are used again.
async function present(files, note = EMPTY) {
  wanted = files;
  element("empty").hidden = files.length > 0;
  element("empty").textContent = note;
  if (!files.length) {
    for (const pane of panes) pane.forget();
    element("choices").textContent = "";
    home.bounds = null;
    moved = false;
    return report();
  }
  const different = panes.findIndex((pane, number) => pane.kind !== files[number]?.kind);
  for (const pane of different < 0 ? [] : panes.splice(different)) pane.remove();
  for (const { kind } of files.slice(panes.length)) panes.push(new Pane(kind));
  panes.forEach((pane, number) => pane.name(files[number].label || NAMES[pane.kind]));
  const loads = panes.map((pane, number) => pane.load(files[number].address));
  choices();
  turn();
  await Promise.all(loads);
}

// The page around sends {target: "fast_sam3d.viewer", job, panes: [{kind, address, label}], note}.
async function listen() {
  window.addEventListener("message", ({ source, origin, data }) => {
    if (source !== window.parent || origin !== location.origin || data?.target !== "fast_sam3d.viewer") return;
    if (data.job !== job) moved = false;
    job = data.job;
    present(data.panes, data.note).catch(hasNoWebGL);
  });
  const kinds = window.innerWidth < NARROW_PX ? ["mesh"] : ["mesh", "splats"];
  present([]);
  for (const kind of kinds) panes.push(new Pane(kind));
  for (const pane of panes) await pane.prepare().catch(() => pane.forget());
}

async function details() {
  const found = {}, rows = [], texts = asked.getAll("notice");
  for (const [name, rowsOf] of [["pose", poseFacts], ["report", reportFacts]]) {
    const address = asked.get(name);
    if (!address) continue;
    try {
      found[name] = JSON.parse(new TextDecoder().decode(await fetched(address)));
      rows.push(...rowsOf(found[name], Array.isArray(found.pose?.objects)));
    } catch {
      texts.push(`${nameOf(address)} could not be read.`);
    }
  }
  home.pose = found.pose;
  for (const text of [...notices(found.report, found.pose), ...texts]) {
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
  const labels = asked.getAll("label");
  const files = [...asked].filter(([name, value]) => (name === "mesh" || name === "splats") && value)
    .map(([kind, address], number) => ({ kind, address, label: labels[number] }));
  const waits = asked.has("wait") && window.parent !== window;
  if (!files.length && !waits) return stop("Nothing to show: the address names no mesh= and no splats=.");
  window.viewer = { panes, look: (view) => { moved = true; for (const pane of panes) look(pane, view); }, picture, settled };
  buttons();
  await details();
  await (waits ? listen() : present(files)).catch(hasNoWebGL);
}

const hasNoWebGL = () => stop("This browser has no WebGL 2, which the viewer needs: switch on hardware acceleration, or use another browser.");

function stop(text) {
  element("panes").textContent = "";
  element("empty").textContent = text;
  element("empty").hidden = false;
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
