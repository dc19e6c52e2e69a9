"use strict";
// The page of `keras-unet explore`. It asks its own server only: numbers as JSON, pictures as PNG.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let state = null;    // what the server says of model, image and stages
let stage = null;    // the stage that is chosen
let channel = 0;
let pinned = null;   // the pixel (y, x) of the answer that was clicked
let seen = null;     // the pixel that is shown: pinned, or under the pointer
let strongest = true; // work out the strongest channel, not the one that was typed
let seed = 1;        // of the augmentation's draw

// helpers

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "image", "text", "path", "line", "polygon", "title"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function address(path, query = {}) {
  return `${path}?${new URLSearchParams({ ...query, v: state ? state.version : 0 })}`;
}

async function ask(path, query = {}, options = {}) {
  const response = await fetch(address(path, query), options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

const post = (path, query = {}, body = "") => ask(path, query, { method: "POST", body });

// Wraps an asynchronous function: one call at a time, and of those that wait only the last.
function latest(work) {
  let busy = false, next = null;
  return async function run(...given) {
    if (busy) { next = given; return; }
    busy = true;
    try { await work(...given); } catch (error) { say(error.message, true); }
    busy = false;
    if (next) { const again = next; next = null; run(...again); }
  };
}

function number(value, digits = 3) {
  const size = Math.abs(value);
  if (size < 1e-6) return (0).toFixed(digits);
  if (size && (size < 0.001 || size >= 1e5)) return value.toExponential(1).replace("-", "−");
  return value.toFixed(size >= 100 ? 1 : digits).replace("-", "−");
}

function pixels(size) { return size[0] === size[1] ? `${size[1]}²` : `${size[0]}×${size[1]}`; }

const find = (name) => state.stages.find((one) => one.layer === name);
const total = (one) => one.channels.reduce((a, b) => a + b, 0);

// the U

const KINDS = [
  ["convolution", "convolution 3×3"], ["pooling", "max pooling 2×2"], ["up", "up-convolution 2×2"],
  ["skip", "skip connection: crop and copy"], ["logits", "convolution 1×1"],
];

function arrow(kind, x0, y0, x1, y1) {
  const length = Math.hypot(x1 - x0, y1 - y0), ux = (x1 - x0) / length, uy = (y1 - y0) / length;
  const tip = 9, wide = 5, bx = x1 - ux * tip, by = y1 - uy * tip;
  const points = `${x1},${y1} ${bx - uy * wide},${by + ux * wide} ${bx + uy * wide},${by - ux * wide}`;
  return make("g", {}, make("line", { class: `arrow ${kind}`, x1: x0, y1: y0, x2: bx, y2: by }),
    make("polygon", { class: `head ${kind}`, points }));
}

function drawU() {
  const u = $("u"), boxes = {};
  u.replaceChildren();
  for (const one of state.stages) {
    const [left, right, bottom, top] = one.box;
    boxes[one.layer] = { x: left, y: -top, w: right - left, h: top - bottom };
  }
  const all = Object.values(boxes);
  const right = Math.max(...all.map((b) => b.x + b.w)), low = Math.max(...all.map((b) => b.y + b.h));
  u.setAttribute("viewBox", `-14 -26 ${right + 34} ${low + 74}`);
  let before = null;
  for (const one of state.stages) {
    const b = boxes[one.layer];
    if (before) {
      const a = boxes[before.layer];
      if (one.kind === "pooling") u.append(arrow("pooling", a.x + b.w / 2, a.y + a.h + 22, a.x + b.w / 2, b.y - 30));
      else if (one.kind === "concatenation") u.append(arrow("up", a.x + a.w / 2, a.y - 30, a.x + a.w / 2, b.y + b.h + 22));
      else u.append(arrow(one.kind === "logits" ? "logits" : "convolution", a.x + a.w + 4, b.y + b.h / 2, b.x - 1, b.y + b.h / 2));
    }
    if (one.kind === "concatenation") {
      const s = boxes[`down${one.level}_conv2`], y = s.y + s.h / 2, middle = (s.x + s.w + b.x) / 2;
      u.append(arrow("skip", s.x + s.w + 6, y, b.x - 2, y));
      const text = b.x - s.x - s.w < 150 ? `crop ${one.crop}` : `crop ${one.crop} each side`;
      u.append(make("text", { class: "size", x: middle, y: y - 8 }, one.crop ? text : "copy"));
    }
    before = one;
  }
  for (const one of state.stages) u.append(drawStage(one, boxes[one.layer]));
  const bridge = boxes.bridge_conv2;
  u.append(make("text", { class: "part", x: boxes.down1_conv1.x + 60, y: low - 4 }, "contracting path"),
    make("text", { class: "part", x: (boxes.bridge_conv1.x + bridge.x + bridge.w) / 2, y: low + 42 }, "bridge"),
    make("text", { class: "part", x: right - 120, y: low - 4 }, "expansive path"));
  $("legend").replaceChildren(...KINDS.map(([kind, text]) =>
    make("span", {}, make("b", { class: kind, "aria-hidden": "true" }, kind === "skip" ? "⇢ " : "→ "), text)));
}

function drawStage(one, b) {
  const group = make("g", {
    class: "stage", role: "button", tabindex: "0", "data-stage": one.layer, "aria-pressed": "false",
    "aria-label": `${one.layer}: ${one.title}; ${one.size[0]} by ${one.size[1]} pixels, ${total(one)} channels`,
  });
  group.append(make("title", {}, `${one.layer}: ${one.title}`));
  const sheets = one.kind === "image" ? 0 : Math.min(3, Math.floor(Math.log2(total(one))) - 1);
  for (let i = sheets; i > 0; i--)
    group.append(make("rect", { class: "sheet", x: b.x + 3 * i, y: b.y - 3 * i, width: b.w, height: b.h }));
  group.append(make("image", {
    x: b.x, y: b.y, width: b.w, height: b.h, preserveAspectRatio: "none",
    href: address("map.png", { stage: one.layer, channel: one.shown, pixels: Math.min(256, Math.max(...one.size)) }),
  }));
  group.append(make("rect", { class: "frame", x: b.x, y: b.y, width: b.w, height: b.h }));
  group.append(make("svg", { class: "fields", x: b.x, y: b.y, width: b.w, height: b.h,
    viewBox: `0 0 ${one.size[1]} ${one.size[0]}`, preserveAspectRatio: "none", "aria-hidden": "true" }));
  group.append(make("text", { x: b.x + b.w / 2, y: b.y - 5 - 3 * Math.max(sheets, 0) }, one.channels.join("+")));
  group.append(make("text", { class: "size", x: b.x + b.w / 2, y: b.y + b.h + 16 }, pixels(one.size)));
  const choose = () => chooseStage(one.layer);
  group.addEventListener("click", choose);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
    else if (step) {
      event.preventDefault();
      const names = state.stages.map((s) => s.layer), at = names.indexOf(one.layer) + step;
      document.querySelector(`[data-stage="${names[Math.min(Math.max(at, 0), names.length - 1)]}"]`).focus();
    }
  });
  return group;
}

function chooseStage(name) {
  stage = name;
  for (const one of document.querySelectorAll(".stage"))
    one.setAttribute("aria-pressed", String(one.dataset.stage === name));
  if (tab() === "pixel") {
    $("work-stage").value = name;
    strongest = true;
    showWork();
  } else if (tab() === "noise" && find(name).kind === "convolution") {
    $("noise-stage").value = name;
    showHistograms();
  } else {
    openTab("stage");
  }
}

// a stage: contact sheet and channel

const showStage = latest(async () => {
  const found = await ask("channels", { stage }); // title and channels change together
  const one = find(stage);
  $("stage-title").textContent = `${stage}: ${one.title}`;
  $("stage-text").textContent =
    `${one.size[0]} × ${one.size[1]} pixels, ${total(one)} channel${total(one) > 1 ? "s" : ""}` +
    (one.channels.length > 1 ? ` (${one.channels[0]} of the skip, then ${one.channels[1]} that come up from below)` : "") +
    (one.crop ? `; ${one.crop} pixels were cut from each side of the skip` : "") +
    ". Sorted by energy, the mean square of the values.";
  $("stage-guide").href = `guide#${one.guide}`;
  $("channels").replaceChildren(...found.channels.map((c) => {
    const button = make("button", { type: "button", "data-channel": c.channel, "aria-pressed": "false",
      "aria-label": `channel ${c.channel}, energy ${number(c.energy)}` },
    make("img", { loading: "lazy", alt: "", width: 96, height: 96,
      src: address("map.png", { stage, channel: c.channel, pixels: Math.min(128, Math.max(...one.size)) }) }),
    `${c.channel} · ${number(c.energy, 2)}`);
    button.addEventListener("click", () => { channel = c.channel; showChannel(c); });
    return button;
  }));
  const first = found.channels[0];
  channel = first.channel;
  showChannel(first);
});

const showChannel = latest(async (c) => {
  for (const one of $("channels").children)
    one.setAttribute("aria-pressed", String(Number(one.dataset.channel) === c.channel));
  const one = find(stage), made = await ask("kernel", { stage, channel: c.channel });
  const half = one.channels.length > 1 ? (c.channel < one.channels[0] ? ", of the skip" : ", from the up-convolution") : "";
  const parts = [
    make("img", { src: address("map.png", { stage, channel: c.channel, pixels: Math.max(512, ...one.size) }), alt: `Channel ${c.channel} of ${stage}` }),
    make("figcaption", {}, `Channel ${c.channel}${half}: ${number(c.low)} `, one.kind === "image" ? "to" : make("span", { class: "scale", "aria-hidden": "true" }),
      ` ${number(c.high)}; mean ${number(c.mean)}, standard deviation ${number(c.deviation)}`),
  ];
  if (made.kernels.length) {
    const size = made.kernels[0].values.length;
    parts.push(make("h3", {}, `The kernel that made it: ${size}×${size} numbers for each of ${made.count} input channel${made.count > 1 ? "s" : ""}` +
      (made.bias === null ? "" : `, bias ${number(made.bias)}`)));
    parts.push(make("div", { class: "grids" }, ...made.kernels.map((k) => grid(k.values, `input channel ${k.channel}`))));
    if (made.count > made.kernels.length) parts.push(make("p", { class: "soft" }, `The ${made.kernels.length} largest are shown.`));
  } else if (one.kind === "pooling") {
    parts.push(make("p", { class: "soft" }, "No kernel: the largest of each 2×2 pixels is kept."));
  } else if (one.kind === "concatenation") {
    parts.push(make("p", { class: "soft" }, "No kernel: a copy from the contracting path."));
  }
  $("channel").replaceChildren(...parts);
});

function grid(rows, caption, chosen = null) {
  const table = make("table", { class: "grid" });
  if (caption) table.append(make("caption", {}, caption));
  rows.forEach((row, y) => table.append(make("tr", {}, ...row.map((value, x) =>
    make("td", chosen && chosen[0] === y && chosen[1] === x ? { class: "chosen" } : {}, value.toFixed(2).replace("-", "−"))))));
  return table;
}

// follow a pixel

function drawPixelPanel() {
  const [height, width] = state.tile.size, [rows, columns] = state.tile.input, margin = state.tile.margin;
  $("input").setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  $("input").setAttribute("aria-label", `The tile that goes in, ${rows} by ${columns} pixels`);
  $("input").replaceChildren(
    make("image", { width: columns, height: rows, href: address("map.png", { stage: "image", channel: 0 }) }),
    ...(margin ? [make("rect", { class: "crop", x: margin, y: margin, width, height })] : []),
    make("svg", { class: "fields", viewBox: `0 0 ${columns} ${rows}`, width: columns, height: rows, "data-for": "image" }));
  $("input-text").textContent = `What goes in, ${pixels([rows, columns])} pixels.` +
    (margin ? ` White: what is answered for; the ${margin} pixels around are context, mirrored at the image's borders.` : "");
  $("answer").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("answer").replaceChildren(
    make("image", { id: "answer-picture", width, height }),
    make("svg", { class: "fields", viewBox: `0 0 ${width} ${height}`, width, height, "data-for": "logits" }));
  const classes = state.model.classes;
  $("class").replaceChildren(...classes.map((name, k) => make("option", { value: k }, name)));
  $("class").value = String(classes.length - 1 < 1 ? 0 : 1);
  showClass();
  $("work-stage").replaceChildren(...state.stages.map((one) => make("option", { value: one.layer }, one.layer)));
  $("work-stage").value = "logits";
}

function showClass() { $("answer-picture").setAttribute("href", address("answer.png", { class: $("class").value })); }

const showPixel = latest(async (y, x, all) => {
  const found = await ask("pixel", { y, x });
  seen = [y, x];
  for (const one of document.querySelectorAll(".fields")) {
    const name = one.dataset.for || one.parentNode.dataset.stage, rectangles = found.fields[name] || [];
    one.replaceChildren();
    rectangles.forEach(([top, left, h, w], i) => {
      const size = find(name).size, least = Math.max(...size) / 40; // a pixel alone would not be seen
      const wide = Math.max(w, least), high = Math.max(h, least);
      one.append(make("rect", { class: i ? "seen second" : "seen", x: left + (w - wide) / 2, y: top + (h - high) / 2, width: wide, height: high }));
    });
    const crop = state.stages.find((s) => s.crop && `down${s.level}_conv2` === name);
    if (crop) one.append(make("rect", { class: "crop", x: crop.crop, y: crop.crop, width: crop.size[1], height: crop.size[0] }));
  }
  const classes = state.model.classes, best = found.probabilities.indexOf(Math.max(...found.probabilities));
  const [, , h, w] = found.fields.image[0];
  let text = `Row ${y}, column ${x}: ${classes[best]}, with ${(100 * found.probabilities[best]).toFixed(1)} %. It sees ${h} × ${w} pixels of the input.`;
  if ("true" in found) text += found.true === null ? " It does not count." : ` The label says ${classes[found.true]}; its weight is ${number(found.weight, 2)}.`;
  $("pixel-text").textContent = text;
  $("bars").replaceChildren(...classes.map((name, k) => make("div", { class: "bar" }, make("span", {}, name),
    make("progress", { max: 1, value: found.probabilities[k], "aria-label": `probability of ${name}` }), make("span", {}, found.probabilities[k].toFixed(3)))));
  if (all) await work();
});

function clearFields() { for (const one of document.querySelectorAll("#u .fields")) one.replaceChildren(); }

function at(event, svg, size) {
  const box = svg.getBoundingClientRect(), scale = Math.min(box.width / size[1], box.height / size[0]);
  const x = (event.clientX - box.left - (box.width - scale * size[1]) / 2) / scale;
  const y = (event.clientY - box.top - (box.height - scale * size[0]) / 2) / scale;
  return [Math.min(Math.max(Math.floor(y), 0), size[0] - 1), Math.min(Math.max(Math.floor(x), 0), size[1] - 1)];
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function listenToAnswer() {
  const svg = $("answer");
  svg.addEventListener("pointermove", (event) => showPixel(...at(event, svg, state.tile.size), false));
  svg.addEventListener("pointerleave", () => pinned && showPixel(...pinned, true));
  svg.addEventListener("click", (event) => { pinned = at(event, svg, state.tile.size); showPixel(...pinned, true); });
  svg.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    pinned = pinned.map((p, i) => Math.min(Math.max(p + far * move[i], 0), state.tile.size[i] - 1));
    showPixel(...pinned, true);
  });
}

const showWork = latest(work);

async function work() {
  const [y, x] = seen || pinned, name = $("work-stage").value;
  const found = await ask("work", { stage: name, y, x, channel: strongest ? -1 : $("work-channel").value });
  $("work-channel").value = found.channel;
  $("work-channel").max = total(find(name)) - 1;
  $("work-guide").href = `guide#${find(name).guide}`;
  $("work").replaceChildren(make("h3", {}, `${name}, channel ${found.channel}, row ${found.y}, column ${found.x}: ${number(found.value)}`),
    ...WORKED[found.kind](found));
}

const line = (...parts) => make("p", { class: "sum" }, ...parts);
const strong = (text) => make("b", {}, text);

function products(found, single) {
  const parts = found.terms.map((t) => {
    const from = t.from ? ` (${t.from})` : "";
    if (single) return line(`channel ${t.channel}: ${number(t.patch[0][0])} × ${number(t.kernel[0][0])} = `, strong(number(t.sum)));
    return make("div", { class: "grids" }, grid(t.patch, `input channel ${t.channel}${from}`), "×", grid(t.kernel, "kernel"), "=", strong(number(t.sum)));
  });
  if (found.rest.count) parts.push(line(found.rest.count > 1 ? `the other ${found.rest.count} input channels together: ` : "the other input channel: ", strong(number(found.rest.sum))));
  const added = [...found.terms.map((t) => t.sum), ...(found.rest.count ? [found.rest.sum] : [])];
  const signed = added.map((v, i) => i === 0 ? number(v) : v < 0 ? ` − ${number(-v)}` : ` + ${number(v)}`).join("");
  parts.push(line(`${signed} + bias ${number(found.bias)} = `, strong(number(found.sum))));
  return parts;
}

const WORKED = {
  image: (f) => f.raw === null ? [line("Not measured: counts as 0 after preparation.")] : [line(`Grey value ${number(f.raw, 1)}, prepared as in training: (${number(f.raw, 1)} − ${number(f.shift, 1)}) × ${number(f.scale, 4)} = `, strong(number(f.value)))],
  convolution: (f) => [
    make("p", { class: "soft" }, `Each 3×3 patch of ${f.input} (from row ${f.top}, column ${f.left}) times its kernel, added up over all input channels:`),
    ...products(f, false),
    ...("normalised" in f ? [line("normalised: ", strong(number(f.normalised)))] : []),
    line(f.activation === "relu" ? "ReLU, negative numbers become 0: " : `${f.activation}: `, strong(number(f.value)))],
  pooling: (f) => [make("p", { class: "soft" }, `The largest of 2×2 values of ${f.input}, from row ${f.top}, column ${f.left}:`),
    make("div", { class: "grids" }, grid(f.window, "", f.chosen), "→", strong(number(f.value)))],
  concatenation: (f) => f.part === "skip"
    ? [line(f.crop ? `A copy of ${f.input} across the skip connection. ${f.crop} pixels were cut from each side (the white frame in the U), so that its row ${f.top}, column ${f.left} lies here: `
      : `A copy of ${f.input} across the skip connection: `, strong(number(f.value)))]
    : [make("p", { class: "soft" }, f.tap
      ? `Up-convolution: row ${f.top}, column ${f.left} of ${f.input} becomes 2×2 pixels; this one takes row ${f.tap[0]}, column ${f.tap[1]} of each kernel:`
      : `Enlarged to twice the size, then a 2×2 convolution of ${f.input}:`), ...products(f, Boolean(f.tap))],
  logits: (f) => [
    make("p", { class: "soft" }, `A 1×1 convolution: the channels of ${f.input} at this pixel, weighed against each other.`),
    ...f.classes.flatMap((c, k) => [make("h3", {}, `score of ${f.names[f.classes.length === 1 ? 1 : k]}`), ...products(c, true)]),
    make("h3", {}, f.logits.length > 1 ? "softmax" : "sigmoid"),
    ...(f.logits.length > 1
      ? f.logits.map((z, k) => line(`${f.names[k]}: exp(${number(z)}) / (${f.logits.map((o) => `exp(${number(o)})`).join(" + ")}) = `, strong(number(f.probabilities[k]))))
      : [line(`1 / (1 + exp(−${number(f.logits[0])})) = `, strong(number(f.probabilities[1])))])],
};

// learning

const showLearning = latest(async () => {
  $("no-labels").hidden = state.labels;
  $("lesson").hidden = !state.labels;
  if (!state.labels) return;
  const found = await ask("learning");
  $("loss-text").textContent = `Mean cross-entropy ${number(found.plain, 4)}, under the weight map ${number(found.weighted, 4)}. ` +
    `${(100 * found.right).toFixed(1)} % of the pixels are right.`;
  for (const what of ["loss", "weights", "product"]) {
    $(`${what}-high`).textContent = number(found.shown[what], 2);
    $(`${what}-picture`).src = address("learning.png", { what });
  }
});

async function takeStep() {
  $("step").disabled = true;
  try {
    const found = await post("step", {}, JSON.stringify({ rate: Number($("rate").value) }));
    const better = found.after < found.before;
    const rows = found.moved.map((m) => make("tr", {}, make("td", {}, `${m.layer} ${m.kind}`), make("td", {}, m.at.join(", ")),
      make("td", {}, number(m.before, 4)), make("td", {}, number(m.after, 4)), make("td", {}, number(m.after - m.before, 4))));
    const most = Math.max(...found.layers.map((l) => l.percent), 1e-9);
    await refresh();
    $("step-result").replaceChildren(
      line("Loss before ", strong(number(found.before, 5)), " → after ", strong(number(found.after, 5)),
        better ? ". Smaller: every weight went a little way down its slope." : ". Larger: the step was too long and overshot. Try a shorter one."),
      line(`Steps so far: ${[...state.steps.map((s) => number(s.before, 4)), number(found.after, 4)].join(" → ")}`),
      make("div", { class: "pictures wide" },
        make("div", {}, make("h3", {}, "The weights that moved most"),
          make("table", { class: "list" }, make("tr", {}, ...["weights", "place (row, column, in, out)", "before", "after", "change"].map((t) => make("th", {}, t))), ...rows)),
        make("div", {}, make("h3", {}, "How far each layer moved, in percent of its length"),
          ...found.layers.map((l) => make("div", { class: "bar" }, make("span", {}, l.layer),
            make("progress", { max: most, value: l.percent, "aria-label": l.layer }), make("span", {}, `${number(l.percent, 3)} %`))))));
    say(better ? "One step taken: pictures and numbers are those of the changed network." : "One step taken: the loss grew.");
  } catch (error) { say(error.message, true); }
  $("step").disabled = false;
}

// augmentation

const RANGES = [
  ["elastic_sigma", "elastic: sigma, pixels", 0, 30, 0.5, (v) => v],
  ["elastic_grid", "elastic: grid points", 2, 10, 1, (v) => [v, v]],
  ["rotate", "rotation, ± degrees", 0, 180, 1, (v) => [-v, v]],
  ["scale", "size, up to ×", 1, 2, 0.05, (v) => [round(1 / v), v]],
  ["shear", "shear, ± degrees", 0, 40, 1, (v) => [-v, v]],
  ["brightness", "brightness, ± std", 0, 1, 0.05, (v) => [-v, v]],
  ["contrast", "contrast, up to ×", 1, 2, 0.05, (v) => [round(1 / v), v]],
  ["gamma", "gamma, up to", 1, 2.5, 0.05, (v) => [round(1 / v), v]],
  ["noise", "noise, up to std", 0, 0.5, 0.01, (v) => [0, v]],
];
const round = (v) => Math.round(v * 1000) / 1000;

function drawSliders() {
  $("preset").replaceChildren(...Object.keys(state.presets).map((name) => make("option", {}, name)));
  $("ranges").replaceChildren(...RANGES.map(([name, text, low, high, step]) => {
    const input = make("input", { type: "range", min: low, max: high, step, "data-name": name, id: `range-${name}` });
    input.addEventListener("input", () => showWarp());
    return make("label", { for: `range-${name}` }, text, input, make("output", { for: `range-${name}` }));
  }));
  $("preset").value = "paper";
  takePreset();
}

function takePreset() {
  const options = state.presets[$("preset").value];
  for (const [name, , low] of RANGES) {
    const value = options[name], input = $(`range-${name}`);
    const known = Array.isArray(value) && typeof value[0] === "number";
    input.value = name === "elastic_grid" ? (known ? value[0] : 3) : known ? value[1] : typeof value === "number" ? value : low;
  }
  $("flips").checked = Boolean(options.flip_vertical);
}

function chosenSettings() {
  const settings = {};
  for (const [name, , low, , , value] of RANGES) {
    const v = Number($(`range-${name}`).value);
    if (name === "elastic_grid" ? Number($("range-elastic_sigma").value) > 0 : v > low) settings[name] = value(v);
  }
  if ($("flips").checked) settings.flip_vertical = settings.flip_horizontal = 0.5;
  return settings;
}

const toml = (value) => Array.isArray(value) ? `[${value.map(toml).join(", ")}]` : String(value);

const showWarp = latest(async () => {
  const settings = chosenSettings();
  for (const [name, , low, , , value] of RANGES) {
    const input = $(`range-${name}`), v = Number(input.value);
    input.parentNode.querySelector("output").textContent = v > low || name === "elastic_grid" ? toml(value(v)) : "off";
  }
  $("settings").value = ['augment = "none"', "", "[augment_options]",
    ...Object.entries(settings).map(([name, value]) => `${name} = ${toml(value)}`)].join("\n");
  if (!$("warp").src) $("warp-text").textContent = "The augmentation is being compiled, once…";
  const start = performance.now();
  const query = { settings: JSON.stringify(settings), seed, lattice: $("lattice").checked };
  const response = await fetch(address("warp.png", query));
  if (!response.ok) throw new Error((await response.json()).error);
  const url = URL.createObjectURL(await response.blob()), old = $("warp").src;
  $("warp").src = url;
  await $("warp").decode();
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  const took = Math.round(performance.now() - start);
  $("warp").dataset.took = took;
  $("warp-text").textContent = `Draw ${seed}, ${took} ms. Amber: lines that were straight in the image` +
    (state.labels ? "; light blue: the outlines of its labels, warped alike." : ".");
});

async function copySettings() {
  const text = $("settings");
  try { await navigator.clipboard.writeText(text.value); } catch { text.select(); document.execCommand("copy"); }
  say("The settings were copied: put them into a training configuration (--config).");
}

// dropout and normalization

const showHistograms = latest(async () => {
  const name = $("noise-stage").value, rate = Number($("drop-rate").value);
  $("drop-shown").textContent = (rate / 100).toFixed(2);
  const found = await ask("histogram", { stage: name, dropout: $("drop").checked ? rate : 0, normalize: $("batch").checked });
  $("batch-text").textContent = found.own ? "the network's own normalization" : "batch normalization: each channel to mean 0, variance 1";
  for (const part of ["sums", "values"]) drawHistogram($(`hist-${part}`), $(`numbers-${part}`), found[part], name);
});

function drawHistogram(svg, numbers, found, name) {
  const width = 480, height = 200, n = found.plain.length, first = found.edges[0], last = found.edges[n];
  const high = Math.sqrt(Math.max(...found.plain, ...found.changed)), y = (v) => height - (height - 8) * Math.sqrt(v) / high;
  const x = (v) => width * (v - first) / (last - first);
  svg.setAttribute("class", "hist");
  svg.setAttribute("viewBox", `0 0 ${width} ${height + 22}`);
  const row = (t, k) => `${t}: mean ${number(k.mean)}, variance ${number(k.variance)}, ${(100 * k.zeros).toFixed(0)} % zeros`;
  svg.setAttribute("aria-label", `Histogram of ${name}. ${row("without", found.plain_numbers)}; ${row("with", found.changed_numbers)}`);
  let path = `M0 ${height}`;
  found.changed.forEach((v, i) => { path += `L${width * i / n} ${y(v)}L${width * (i + 1) / n} ${y(v)}`; });
  svg.replaceChildren(
    ...found.plain.map((v, i) => make("rect", { class: "plain", x: width * i / n, y: y(v), width: width / n, height: height - y(v) })),
    make("path", { class: "changed", d: `${path}L${width} ${height}` }),
    ...(first < 0 && last > 0 ? [make("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height })] : []),
    make("text", { x: 0, y: height + 16 }, number(first, 2)),
    ...(first < 0 && last > 0 ? [make("text", { x: x(0) - 3, y: height + 16 }, "0")] : []),
    make("text", { x: width, y: height + 16, "text-anchor": "end" }, number(last, 2)));
  numbers.replaceChildren(make("table", { class: "list" },
    make("tr", {}, ...["", "mean", "variance", "zeros"].map((t) => make("th", {}, t))),
    ...[["without", found.plain_numbers], ["with", found.changed_numbers]].map(([t, k]) => make("tr", {}, make("td", {}, t),
      make("td", {}, number(k.mean)), make("td", {}, number(k.variance)), make("td", {}, `${(100 * k.zeros).toFixed(1)} %`)))));
}

// tabs

const SHOW = {
  stage: () => showStage(),
  pixel: () => showPixel(...pinned, true),
  learning: () => showLearning(),
  warp: () => showWarp(),
  noise: () => showHistograms(),
};
const NAMES = Object.keys(SHOW);

function tab() { return NAMES.find((name) => !$(`panel-${name}`).hidden); }

function openTab(name) {
  for (const other of NAMES) {
    $(`panel-${other}`).hidden = other !== name;
    $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
  if (name !== "pixel") clearFields();
  SHOW[name]();
}

// the whole image, and files

function drawOverview() {
  $("whole").hidden = !state.tile.chosen;
  if (!state.tile.chosen) return;
  const [height, width] = state.image.size, [top, left] = state.tile.origin, [h, w] = state.tile.size;
  $("overview").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("overview").replaceChildren(make("image", { width, height, href: address("overview.png", {}) }),
    make("rect", { class: "seen", x: left, y: top, width: w, height: h }));
}

const moveTile = latest(async (y, x) => {
  say("Computing…");
  take(await post("tile", { y, x }));
  say("");
});

function listenToOverview() {
  const svg = $("overview");
  svg.addEventListener("click", (event) => {
    const [y, x] = at(event, svg, state.image.size);
    moveTile(Math.round(y - state.tile.size[0] / 2), Math.round(x - state.tile.size[1] / 2));
  });
  svg.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    moveTile(...state.tile.origin.map((o, i) => o + move[i] * Math.round(state.tile.size[i] / 4)));
  });
}

async function openFile(kind, input) {
  const file = input.files[0];
  if (!file) return;
  say(`Opening ${file.name}…`);
  try {
    take(await post("open", { kind, name: file.name }, file));
    say(kind === "image" ? `${file.name} is shown.` : `Labels of ${file.name} are used.`);
  } catch (error) { say(error.message, true); }
  input.value = "";
}

// Draws everything anew from what the server says now.
function take(found) {
  state = found;
  const { model, image, tile } = state;
  $("summary").textContent = `${model.name}: ${model.parameters.toLocaleString("en")} weights, depth ${model.depth}, padding ${model.padding}; ` +
    `a pixel sees up to ${model.sees}². ${image.name}: ${image.size[0]} × ${image.size[1]} pixels; a tile of ${pixels(tile.input)} gives an answer of ${pixels(tile.size)}.`;
  for (const one of document.querySelectorAll("[data-guide]")) one.href = `guide#${state.sections[one.dataset.guide]}`;
  const kept = stage && find(stage) ? stage : "down1_conv2";
  drawU();
  drawOverview();
  drawPixelPanel();
  if (!$("ranges").children.length) drawSliders();
  const convolutions = state.stages.filter((one) => one.kind === "convolution");
  const noise = $("noise-stage").value;
  $("noise-stage").replaceChildren(...convolutions.map((one) => make("option", {}, one.layer)));
  $("noise-stage").value = convolutions.some((one) => one.layer === noise) ? noise : "bridge_conv2";
  const fits = pinned && pinned.every((p, i) => p < tile.size[i]);
  if (!fits) pinned = tile.size.map((n) => Math.floor(n / 2));
  seen = pinned;
  stage = kept;
  document.querySelector(`[data-stage="${stage}"]`).setAttribute("aria-pressed", "true");
  openTab(tab());
}

async function refresh() { take(await ask("state")); }

async function start() {
  for (const [i, name] of NAMES.entries()) {
    $(`tab-${name}`).addEventListener("click", () => openTab(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = NAMES[(i + step + NAMES.length) % NAMES.length];
      openTab(next);
      $(`tab-${next}`).focus();
    });
  }
  listenToAnswer();
  listenToOverview();
  $("open-image").addEventListener("change", (event) => openFile("image", event.target));
  $("open-labels").addEventListener("change", (event) => openFile("labels", event.target));
  $("class").addEventListener("change", showClass);
  $("work-stage").addEventListener("change", () => { strongest = true; showWork(); });
  $("work-channel").addEventListener("change", () => { strongest = false; showWork(); });
  $("work-strongest").addEventListener("click", () => { strongest = true; showWork(); });
  $("step").addEventListener("click", takeStep);
  $("reset").addEventListener("click", async () => {
    try { take(await post("reset")); $("step-result").replaceChildren(); say("The weights are as they were."); } catch (error) { say(error.message, true); }
  });
  $("preset").addEventListener("change", () => { takePreset(); showWarp(); });
  for (const id of ["flips", "lattice"]) $(id).addEventListener("change", () => showWarp());
  $("other").addEventListener("click", () => { seed += 1; showWarp(); });
  $("copy").addEventListener("click", copySettings);
  for (const id of ["noise-stage", "batch", "drop", "drop-rate"]) $(id).addEventListener("input", () => showHistograms());
  try { await refresh(); } catch (error) { say(error.message, true); return; }
  setTimeout(() => showWarp(), 1500); // the first frame compiles the augmentation
}

start();
