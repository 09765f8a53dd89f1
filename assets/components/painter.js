// Draw the region that an edit may change. Arrow keys move the brush, the space bar paints, so that no mouse is needed.
const boards = new WeakMap();

class Board {
  constructor(root) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.size = root.querySelector("input");
    this.erase = false; this.at = null; this.key = null; this.told = null;
    this.canvas.addEventListener("pointerdown", (e) => { this.canvas.setPointerCapture(e.pointerId); this.last = this.where(e); this.stroke(this.last); });
    this.canvas.addEventListener("pointermove", (e) => { if (this.last) { const p = this.where(e); this.stroke(p); this.last = p; } });
    this.canvas.addEventListener("pointerup", () => { this.last = null; this.emit(); });
    this.canvas.addEventListener("keydown", (e) => this.press(e));
    root.querySelectorAll("button").forEach((b) => b.addEventListener("click", () => this.act(b.dataset.act)));
  }

  where(e) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (e.clientX - box.left) / box.width * this.canvas.width, y: (e.clientY - box.top) / box.height * this.canvas.height };
  }

  stroke(p) {
    const from = this.last || p;
    this.pen.globalCompositeOperation = this.erase ? "destination-out" : "source-over";
    this.pen.lineCap = "round"; this.pen.lineWidth = Number(this.size.value); this.pen.strokeStyle = "#d6006c";
    this.pen.beginPath(); this.pen.moveTo(from.x, from.y); this.pen.lineTo(p.x + 0.01, p.y); this.pen.stroke();
  }

  press(e) {
    const step = e.shiftKey ? 12 : 4;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!this.at) this.at = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    if (moves[e.key]) this.at = { x: this.at.x + moves[e.key][0], y: this.at.y + moves[e.key][1] };
    else if (e.key !== " ") return;
    e.preventDefault();
    if (e.key === " " || e.ctrlKey) { this.last = null; this.stroke(this.at); this.emit(); }
  }

  act(name) {
    if (name === "clear") { this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height); this.emit(); return; }
    this.erase = name === "erase";
    for (const act of ["paint", "erase"]) this.root.querySelector(`[data-act=${act}]`).setAttribute("aria-pressed", String((act === "erase") === this.erase));
  }

  emit() {
    const { width, height } = this.canvas;
    const alpha = this.pen.getImageData(0, 0, width, height).data;
    const bits = new Uint8Array(Math.ceil(width * height / 8));
    for (let i = 0; i < width * height; i++) if (alpha[4 * i + 3] > 127) bits[i >> 3] |= 128 >> (i & 7);
    let text = ""; for (const byte of bits) text += String.fromCharCode(byte);
    // What Python was told last; it holds for that image alone, and is drawn again when that image comes back.
    this.told = { key: this.key, drawn: this.pen.getImageData(0, 0, width, height) };
    this.send("region", { width, height, bits: btoa(text), key: this.key });
  }

  update(data, send) {
    this.send = send;
    const base = this.root.querySelector(".base");
    base.alt = data.alt; this.canvas.setAttribute("aria-label", data.label);
    if (base.getAttribute("src") !== data.image) base.src = data.image;
    if (this.key === data.key) return;
    this.key = data.key; this.canvas.width = data.width; this.canvas.height = data.height;
    if (this.told && this.told.key === data.key) { this.pen.putImageData(this.told.drawn, 0, 0); return; }
    if (!data.start) return;
    const start = new Image();
    start.onload = () => this.key === data.key && this.pen.drawImage(start, 0, 0, data.width, data.height);
    start.src = data.start;
  }
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".painter");
  if (!boards.has(root)) boards.set(root, new Board(root));
  boards.get(root).update(data, setStateValue);
}
