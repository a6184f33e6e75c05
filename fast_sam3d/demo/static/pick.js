// The picture of the page: choose one, then mark the object by clicks, a box or a brush. Runs in a gr.HTML component:
// `element`, `props`, `trigger`, `watch` and `upload` are Gradio's. Coordinates sent to the server are pixels of the
// uploaded picture; props.picture is {url, width, height} or null, props.value {mask, points, box, note}.
const find = (name) => element.querySelector(name);
const COLOURS = { keep: "#12b76a", drop: "#f04438", box: "#ffffff" };
let tool = "click", keep = true, shown = null, mask = null, drag = null, busy = 0;

const load = (url, then) => {
  if (!url) return then(null);
  const image = new Image();
  image.onload = () => then(image);
  image.src = url;
};
const scale = () => find("canvas").width / props.picture.width; // canvas pixels per pixel of the picture

function draw() {
  const canvas = find("canvas");
  if (!props.picture || !shown) return;
  const context = canvas.getContext("2d"), unit = scale();
  context.drawImage(shown, 0, 0, canvas.width, canvas.height);
  if (mask) context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  const thick = canvas.width / Math.max(canvas.clientWidth, 1); // one pixel of the screen
  for (const [x, y, kept] of props.value.points || []) {
    context.beginPath();
    context.arc((x + 0.5) * unit, (y + 0.5) * unit, 5 * thick, 0, 7);
    context.fillStyle = kept ? COLOURS.keep : COLOURS.drop;
    context.fill();
    context.lineWidth = 1.5 * thick;
    context.strokeStyle = "white";
    context.stroke();
  }
  const corners = drag && tool === "box" ? [...drag[0], ...drag.at(-1)] : props.value.box;
  if (corners) {
    const [left, top, right, bottom] = corners.map((value) => value * unit);
    context.strokeStyle = COLOURS.box;
    context.lineWidth = 2 * thick;
    context.setLineDash([6 * thick, 4 * thick]);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
  }
  if (drag && tool === "brush") {
    context.lineWidth = 2 * radius() * unit;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = keep ? "#12b76a99" : "#f0443899";
    context.beginPath();
    for (const [x, y] of [drag[0], ...drag]) context.lineTo((x + 0.5) * unit, (y + 0.5) * unit);
    context.stroke();
  }
}

const radius = () => (Number(find(".size").value) / 100) * props.picture.width;

function say(text, wrong = false) {
  const note = find(".note");
  note.textContent = text;
  note.classList.toggle("wrong", wrong);
}

function show() {
  const there = Boolean(props.picture);
  find(".drop").hidden = there;
  find(".tools").hidden = find("canvas").hidden = !there;
  find("canvas").style.touchAction = tool === "click" ? "manipulation" : "none";
  for (const button of element.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  for (const button of element.querySelectorAll("[data-keep]"))
    button.setAttribute("aria-pressed", String((button.dataset.keep === "1") === keep));
  find(".keep").hidden = tool === "box";
  find(".size").hidden = tool !== "brush";
  draw();
}

function act(data) {
  busy += 1;
  element.classList.add("busy");
  trigger("select", data);
}

function changed() {
  busy = 0;
  element.classList.remove("busy");
  const value = props.value || {};
  say(value.note || "", Boolean(value.wrong));
  load(value.mask, (image) => { mask = image; show(); });
}

function replaced() {
  shown = mask = null;
  drag = null;
  load(props.picture && props.picture.url, (image) => {
    shown = image;
    const canvas = find("canvas");
    if (image) [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    changed();
  });
}

async function send(file) {
  if (!file) return;
  say(`Reading ${file.name} …`);
  try {
    const { path } = await upload(file);
    trigger("upload", { path, name: file.name });
  } catch (error) {
    say(`${file.name} could not be sent: it is larger than this page takes, or the connection to the server is lost.`, true);
  }
}

const at = (event) => {
  const area = find("canvas").getBoundingClientRect();
  const part = (value, start, length, pixels) =>
    Math.min(Math.max(Math.floor(((value - start) / length) * pixels), 0), pixels - 1);
  return [
    part(event.clientX, area.left, area.width, props.picture.width),
    part(event.clientY, area.top, area.height, props.picture.height),
  ];
};

element.addEventListener("change", (event) => {
  if (event.target.type === "file") { send(event.target.files[0]); event.target.value = ""; }
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button, .drop");
  if (!button) return;
  if (button.dataset.tool) tool = button.dataset.tool;
  else if (button.dataset.keep) keep = button.dataset.keep === "1";
  else if (button.dataset.act) act({ kind: button.dataset.act });
  else find("input[type=file]").click();
  show();
});
element.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && event.target.matches(".drop")) {
    event.preventDefault();
    find("input[type=file]").click();
  }
});
element.addEventListener("pointerdown", (event) => {
  if (event.target !== find("canvas") || tool === "click" || event.button) return;
  event.target.setPointerCapture(event.pointerId);
  drag = [at(event)];
});
element.addEventListener("pointermove", (event) => {
  if (drag) { drag.push(at(event)); draw(); }
});
element.addEventListener("pointercancel", () => { drag = null; draw(); });
element.addEventListener("pointerup", (event) => {
  if (event.target !== find("canvas")) return;
  if (tool === "click" && event.button === 0) {
    const [x, y] = at(event);
    act({ kind: "click", x, y, keep: keep && !event.altKey });
  } else if (drag) {
    const points = [...drag, at(event)];
    if (tool === "box") act({ kind: "box", corners: [...points[0], ...points.at(-1)] });
    else act({ kind: "brush", points, radius: radius(), keep });
    drag = null;
    draw();
  }
});
for (const name of ["dragover", "drop"])
  element.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop") send(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file && document.contains(element)) send(file);
});
watch("picture", replaced);
watch("value", changed);
replaced();
