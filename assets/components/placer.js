// Choose a place in an image: click it, or move the crosshair with the arrow keys and press Enter. It returns the pixel.
const SVG = "http://www.w3.org/2000/svg";
const boards = new WeakMap();

class Board {
  constructor(root) {
    this.board = root.querySelector(".board");
    this.marks = root.querySelector(".marks");
    this.where = root.querySelector(".where");
    this.least = root.querySelector("button");
    // What Python was told last; it holds for that image alone, and is shown again when that image comes back.
    this.told = null; this.cursor = null; this.key = null;
    this.board.addEventListener("click", (e) => { this.cursor = null; this.tell(this.pixel(e)); });
    this.board.addEventListener("keydown", (e) => this.press(e));
    this.board.addEventListener("blur", () => { this.cursor = null; this.draw(); });
    this.least.addEventListener("click", () => this.tell(null));
  }

  inside(x, y) {
    const { width, height } = this.data;
    return { x: Math.min(width - 1, Math.max(0, Math.floor(x))), y: Math.min(height - 1, Math.max(0, Math.floor(y))) };
  }

  pixel(e) {
    const box = this.marks.getBoundingClientRect();
    return this.inside((e.clientX - box.left) / box.width * this.data.width, (e.clientY - box.top) / box.height * this.data.height);
  }

  press(e) {
    const unit = Math.max(1, Math.round(this.data.width / 48)), step = e.shiftKey ? 6 * unit : unit;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const at = this.cursor || this.placed() || this.inside(this.data.width / 2, this.data.height / 2);
    if (moves[e.key]) this.cursor = this.inside(at.x + moves[e.key][0], at.y + moves[e.key][1]);
    else if (e.key === "Enter" || e.key === " ") { this.cursor = null; this.tell(at); }
    else return;
    e.preventDefault();
    this.draw();
  }

  placed() { return this.told && this.told.key === this.key ? this.told.at : null; }

  tell(at) {
    this.told = { key: this.key, at };
    this.send("place", { key: this.key, row: at && at.y, col: at && at.x });
    this.draw();
  }

  draw() {
    const { width, height } = this.data, placed = this.placed(), nodes = [];
    this.marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const cross = (at, kind) => {
      const arm = width / 22, x = at.x + 0.5, y = at.y + 0.5;
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`);
      nodes.push(path);
    };
    for (const [at, kind] of [[placed, "placed"], [this.cursor, "cursor"]]) if (at) { cross(at, "halo"); cross(at, kind); }
    this.marks.replaceChildren(...nodes);
    this.least.setAttribute("aria-pressed", String(!placed));
    const shown = this.cursor || placed;
    this.where.textContent = shown ? `row ${shown.y}, column ${shown.x}${this.cursor ? ": Enter puts it here" : ""}` : "";
  }

  update(data, send) {
    this.data = data; this.send = send;
    this.least.textContent = data.unplaced;
    const base = this.board.querySelector(".base");
    base.alt = data.alt; this.board.setAttribute("aria-label", data.label);
    if (base.getAttribute("src") !== data.image) base.src = data.image;
    if (this.key !== data.key) { this.key = data.key; this.cursor = null; }
    this.draw();
  }
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".placer");
  if (!boards.has(root)) boards.set(root, new Board(root));
  boards.get(root).update(data, setStateValue);
}
