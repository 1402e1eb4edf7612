"use strict";
// The slider: moves the threshold in every chart, the numbers under it, and the outline of every example.
(() => {
  document.documentElement.classList.remove("no-script");
  const slider = document.getElementById("threshold");
  if (!slider) return;
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = document.getElementById("threshold-value");
  const TRUTH = "#56b4e9", FOUND = "#ffb000";
  let own = false; // true while every example stands at the threshold its own fold chose

  const text = (value) => (value === undefined ? "–" : value.toFixed(3));
  const rows = [...document.querySelectorAll("#at-threshold tr[data-curve]")].map((row) => ({
    cells: [...row.querySelectorAll("td[data-line]")],
    curve: data.curves[Number(row.dataset.curve)],
  }));

  function numbers(threshold) {
    for (const { cells, curve } of rows) {
      const i = curve.thresholds.findIndex((value) => Math.abs(value - threshold) < 1e-6);
      for (const cell of cells) cell.textContent = text((curve.lines[cell.dataset.line] || [])[i]);
    }
    for (const line of document.querySelectorAll("line.slider")) {
      const scale = line.ownerSVGElement.dataset;
      const share = (threshold - scale.low) / (scale.high - scale.low);
      const x = Number(scale.start) + share * (scale.end - scale.start);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
  }

  // --- examples: contours by marching squares, between pixel centres -------------------------------

  function contour(values, width, height, level) {
    const path = new Path2D();
    const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
    const cut = (a, b) => (level - a) / (b - a);
    for (let y = -1; y < height; y++) {
      for (let x = -1; x < width; x++) {
        const a = at(x, y), b = at(x + 1, y), c = at(x + 1, y + 1), d = at(x, y + 1);
        const kind = (a > level) | ((b > level) << 1) | ((c > level) << 2) | ((d > level) << 3);
        if (kind === 0 || kind === 15) continue;
        const top = () => [x + cut(a, b), y], right = () => [x + 1, y + cut(b, c)];
        const bottom = () => [x + cut(d, c), y + 1], left = () => [x, y + cut(a, d)];
        const segment = (one, other) => {
          const [p, q] = [one(), other()];
          path.moveTo(p[0] + 0.5, p[1] + 0.5);
          path.lineTo(q[0] + 0.5, q[1] + 0.5);
        };
        if (kind === 1 || kind === 14 || kind === 5) segment(left, top);
        if (kind === 2 || kind === 13 || kind === 10) segment(top, right);
        if (kind === 4 || kind === 11 || kind === 5) segment(right, bottom);
        if (kind === 8 || kind === 7 || kind === 10) segment(bottom, left);
        if (kind === 3 || kind === 12) segment(left, right);
        if (kind === 6 || kind === 9) segment(top, bottom);
      }
    }
    return path;
  }

  function pixels(image) {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
  }

  const examples = [...document.querySelectorAll("figure[data-example]")].map((figure, i) => {
    const part = (name) => figure.querySelector(`img[data-part=${name}]`);
    return {
      figure, canvas: figure.querySelector("canvas"), live: figure.querySelector("[data-live]"),
      preview: part("preview"), prob: part("prob"), truth: part("truth"), chosen: data.chosen[i],
    };
  });

  async function load(example) {
    await Promise.all([example.preview, example.prob, example.truth].map((image) => image.decode()));
    example.width = example.preview.naturalWidth;
    example.height = example.preview.naturalHeight;
    example.probs = pixels(example.prob);
    example.truths = pixels(example.truth);
    example.outline = contour(example.truths, example.width, example.height, 127.5);
    example.preview.hidden = true;
    example.canvas.hidden = false;
  }

  function draw(example, threshold) {
    const { canvas, width, height } = example;
    const scale = Math.min(2, window.devicePixelRatio || 1) * (canvas.clientWidth || width) / width;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.drawImage(example.preview, 0, 0);
    context.lineJoin = context.lineCap = "round";
    const stroke = (path, colour, thickness) => {
      context.strokeStyle = colour;
      context.lineWidth = thickness * width / (canvas.clientWidth || width);
      context.stroke(path);
    };
    stroke(example.outline, TRUTH, 1.8);
    stroke(contour(example.probs, width, height, 255 * threshold), FOUND, 1.4);
    let both = 0, either = 0;
    for (let i = 0; i < example.probs.length; i++) {
      const found = example.probs[i] > 255 * threshold, true_ = example.truths[i] > 127;
      both += found && true_;
      either += found + true_;
    }
    const f1 = either ? (2 * both) / either : 1;
    example.live.textContent = `${f1.toFixed(3)} at ${threshold.toFixed(2)}`;
    canvas.setAttribute("aria-label", `${example.figure.dataset.example}: at threshold ${threshold.toFixed(2)} F1 ${f1.toFixed(3)}`);
  }

  let waiting = false;
  function update() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const threshold = Number(slider.value);
      shown.textContent = threshold.toFixed(2);
      slider.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(2)}`);
      numbers(threshold);
      for (const example of examples) if (example.probs) draw(example, own ? example.chosen : threshold);
    });
  }

  const button = document.getElementById("own");
  function masksAtTheirOwn(yes) {
    own = yes;
    button?.setAttribute("aria-pressed", String(yes));
    update();
  }

  slider.addEventListener("input", () => masksAtTheirOwn(false));
  button?.addEventListener("click", () => masksAtTheirOwn(!own));
  window.addEventListener("resize", update);
  numbers(Number(slider.value));
  update();
  Promise.all(examples.map((example) => load(example).catch(() => undefined))).then(() => {
    document.documentElement.dataset.ready = "yes";
    masksAtTheirOwn(examples.length > 0);
  });
})();
