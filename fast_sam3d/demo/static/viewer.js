// The 3D viewer of a result, in a frame. It is loaded once, as soon as its tab is seen and the page is drawn, and then
// receives what to show by messages. props.value is {job, panes: [{kind, address, label}], note} or null.
const frame = element.querySelector("iframe");
let loaded = false, sent = null;

function load() {
  if (frame.src) return;
  frame.src = "viewer/index.html?wait=1";
}

function send() {
  const value = props.value || { job: null, panes: [] };
  if (value.panes.length) load();
  if (!loaded || sent === value) return;
  sent = value;
  frame.classList.toggle("tall", value.panes.length > 2);
  frame.contentWindow.postMessage({ target: "fast_sam3d.viewer", ...value }, location.origin);
}

window.addEventListener("message", ({ source, data }) => {
  if (source !== frame.contentWindow || data?.source !== "fast_sam3d.viewer") return;
  loaded = true;
  if (data.state !== "empty" || !props.value?.panes?.length) return;
  sent = null; // it is new, or the browser has loaded it again
  send();
});
const seen = new ResizeObserver(() => {
  if (!element.clientWidth) return;
  seen.disconnect();
  setTimeout(load, 800); // the page comes first
});
seen.observe(element);
watch("value", send);
