// A cortical flatmap one can click, hover, zoom and drive from the keyboard. It returns the clicked pixel of the map image;
// which voxel that is, Python decides. The voxel table sent along serves the hover read-out only.
const SVG = "http://www.w3.org/2000/svg";
const views = new WeakMap();

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int16Array(await new Response(stream).arrayBuffer());
}

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

class View {
  constructor(root) {
    this.root = root;
    this.stage = root.querySelector(".stage");
    this.image = root.querySelector(".map");
    this.lines = root.querySelector(".lines");
    this.readout = root.querySelector(".readout");
    this.scale = 1; this.x = 0; this.y = 0;
    this.cursor = null; this.table = null; this.tableKey = null;
    this.listen();
  }

  listen() {
    this.root.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !e.shiftKey && this.scale === 1 && e.deltaY > 0) return;
      e.preventDefault();
      this.zoom(e.deltaY < 0 ? 1.25 : 0.8, this.local(e));
    }, { passive: false });
    this.root.addEventListener("pointerdown", (e) => { if (!e.target.closest("button")) this.drag = { x: e.clientX, y: e.clientY, ox: this.x, oy: this.y, moved: false }; });
    this.root.addEventListener("pointermove", (e) => this.move(e));
    this.root.addEventListener("pointerup", (e) => this.release(e));
    this.root.addEventListener("pointerleave", () => { this.drag = null; this.say(""); });
    this.root.addEventListener("keydown", (e) => this.key(e));
    this.root.querySelectorAll("button").forEach((b) => b.addEventListener("click", () => this.act(b.dataset.act)));
    new ResizeObserver(() => this.sizeText()).observe(this.root);
  }

  local(e) { const box = this.root.getBoundingClientRect(); return { x: e.clientX - box.left, y: e.clientY - box.top }; }

  pixel(e) {
    const box = this.stage.getBoundingClientRect();
    return { x: Math.floor((e.clientX - box.left) / box.width * this.data.width), y: Math.floor((e.clientY - box.top) / box.height * this.data.height) };
  }

  move(e) {
    if (this.drag && this.scale > 1) {
      const dx = e.clientX - this.drag.x, dy = e.clientY - this.drag.y;
      if (Math.hypot(dx, dy) > 3) this.drag.moved = true;
      if (this.drag.moved) { this.x = this.drag.ox + dx; this.y = this.drag.oy + dy; this.place(); return; }
    }
    this.describe(this.pixel(e));
  }

  release(e) {
    const drag = this.drag; this.drag = null;
    if (!drag || drag.moved) return;
    this.click(this.pixel(e));
  }

  click(point) {
    if (point.x < 0 || point.y < 0 || point.x >= this.data.width || point.y >= this.data.height) return;
    this.send("click", point);
  }

  key(e) {
    const step = e.shiftKey ? 20 : 4;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[e.key]) {
      const at = this.cursor || this.data.selected || { x: this.data.width / 2, y: this.data.height / 2 };
      this.cursor = { x: Math.round(Math.min(this.data.width - 1, Math.max(0, at.x + moves[e.key][0]))),
        y: Math.round(Math.min(this.data.height - 1, Math.max(0, at.y + moves[e.key][1]))) };
      this.describe(this.cursor); this.draw();
    } else if ((e.key === "Enter" || e.key === " ") && this.cursor && e.target === this.root) this.click(this.cursor);
    else if (e.key === "+" || e.key === "=") this.act("in");
    else if (e.key === "-") this.act("out");
    else if (e.key === "0") this.act("fit");
    else return;
    e.preventDefault();
  }

  act(name) {
    const box = this.root.getBoundingClientRect();
    if (name === "fit") { this.scale = 1; this.x = 0; this.y = 0; this.place(); this.sizeText(); } else this.zoom(name === "in" ? 1.5 : 1 / 1.5, { x: box.width / 2, y: box.height / 2 });
  }

  zoom(factor, at) {
    const next = Math.min(10, Math.max(1, this.scale * factor));
    const ratio = next / this.scale;
    this.x = at.x - (at.x - this.x) * ratio; this.y = at.y - (at.y - this.y) * ratio;
    this.scale = next; this.place(); this.sizeText();
  }

  place() {
    const box = this.root.getBoundingClientRect();
    this.x = Math.min(0, Math.max(box.width * (1 - this.scale), this.x));
    this.y = Math.min(0, Math.max(box.height * (1 - this.scale), this.y));
    this.stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
  }

  sizeText() {
    const width = this.root.getBoundingClientRect().width;
    if (!this.data || !width) return;
    const size = 12 * this.data.width / width / this.scale;
    this.lines.querySelectorAll("text").forEach((t) => { t.setAttribute("font-size", size); t.setAttribute("stroke-width", size / 4); });
  }

  say(text) { this.readout.textContent = text; }

  describe(point) {
    if (!this.table) return;
    const voxel = point.x >= 0 && point.y >= 0 && point.x < this.data.width && point.y < this.data.height ? this.table[point.y * this.data.width + point.x] : -1;
    this.say(voxel < 0 ? "" : this.data.readout[voxel] || "");
  }

  draw() {
    const d = this.data;
    this.lines.setAttribute("viewBox", `0 0 ${d.width} ${d.height}`);
    const nodes = [];
    for (const kind of ["halo", "region"]) for (const outline of d.outlines)
      for (const polygon of outline.polygons) nodes.push(element("polyline", { class: kind, points: polygon.map((p) => p.join(",")).join(" ") }));
    for (const outline of d.outlines) for (const [x, y] of outline.labels) { const t = element("text", { x, y }); t.textContent = outline.name; nodes.push(t); }
    if (d.selected) for (const kind of ["chosen light", "chosen"]) nodes.push(element("circle", { class: kind, cx: d.selected.x, cy: d.selected.y, r: d.width / 110 }));
    if (this.cursor) for (const [dx, dy] of [[1, 0], [0, 1]]) nodes.push(element("line", { class: "cursor", x1: this.cursor.x - 9 * dx, x2: this.cursor.x + 9 * dx, y1: this.cursor.y - 9 * dy, y2: this.cursor.y + 9 * dy }));
    this.lines.replaceChildren(...nodes);
    this.sizeText();
  }

  async update(data, send) {
    this.data = data; this.send = send;
    this.root.setAttribute("aria-label", data.alt);
    this.image.alt = data.alt;
    if (this.image.getAttribute("src") !== data.image) this.image.src = data.image;
    this.draw();
    if (this.tableKey !== data.table_key) { this.tableKey = data.table_key; this.table = await unpack(data.table); }
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".flatmap");
  if (!views.has(root)) views.set(root, new View(root));
  views.get(root).update(data, setTriggerValue);
}
