// Images with heatmaps laid over them; the opacity slider works without a round trip to the server.
function node(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(item, opacity) {
  const box = node("div", "pic");
  const image = node("img"); image.src = item.image; image.alt = item.alt;
  box.append(image);
  if (item.heat) { const heat = node("img", "heat"); heat.src = item.heat; heat.alt = ""; heat.style.opacity = opacity; box.append(heat); }
  return box;
}

function card(item, data, opacity, send) {
  const figure = node("figure", item.chosen ? "chosen" : "");
  figure.setAttribute("role", "listitem");
  figure.dataset.stimulus = item.id;
  const box = picture(item, opacity);
  box.addEventListener("click", () => send("action", { name: "select", stimulus: item.id }));
  const caption = node("figcaption");
  caption.append(node("div", "numbers", item.numbers), node("div", "caption", item.caption));
  const words = node("div", "words");
  for (const word of item.words) words.append(node("span", "", word));
  caption.append(words);
  const acts = node("div", "acts");
  data.actions.forEach((action, i) => {
    const button = node("button", i === 0 ? "first" : "", action.label);
    button.type = "button";
    button.setAttribute("aria-label", `${action.label}: ${item.alt}`);
    button.addEventListener("click", () => send("action", { name: action.name, stimulus: item.id }));
    acts.append(button);
  });
  figure.append(box, caption, acts);
  return figure;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const slider = parentElement.querySelector("input");
  const gallery = parentElement.querySelector(".gallery");
  const opacity = () => slider.value / 100;
  slider.oninput = () => gallery.querySelectorAll(".heat").forEach((heat) => { heat.style.opacity = opacity(); });
  const legend = parentElement.querySelector(".legend");
  const bar = node("i"); bar.style.background = data.legend.gradient;
  legend.replaceChildren(node("span", "", data.legend.low), bar, node("span", "", data.legend.high));
  gallery.setAttribute("aria-label", data.label);
  gallery.replaceChildren(...data.items.map((item) => card(item, data, opacity(), setTriggerValue)));
}
