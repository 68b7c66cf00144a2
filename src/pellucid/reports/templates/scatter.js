"use strict";
// Scatters that can be turned: the drawing is there without this; here it follows the pointer and the keys.
(() => {
  const STEP = Math.PI / 24;
  const NEAR = 14; // pixels of the page within which a point is reached

  /** Turn a rotation matrix about the page's axes: first across (yaw), then up and down (pitch). */
  function turned(m, yaw, pitch) {
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const turn = [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]];
    return turn.map((row) => [0, 1, 2].map((k) => row[0] * m[0][k] + row[1] * m[1][k] + row[2] * m[2][k]));
  }
  const seen = (m, p) => m.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);
  const START = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

  for (const cloud of document.querySelectorAll(".cloud")) {
    const spec = JSON.parse(cloud.querySelector("script").textContent);
    const view = cloud.querySelector(".cloud-view");
    const dots = [...view.querySelectorAll(".dot")];
    const trails = [...view.querySelectorAll(".trail")];
    const rays = [...view.querySelectorAll(".ray")];
    const card = cloud.querySelector(".cloud-card");
    const canvas = card.querySelector("canvas");
    const text = card.querySelector("span");
    const said = cloud.querySelector(".cloud-said");
    const sprite = cloud.querySelector(".cloud-sprite");
    const byNumber = new Map(dots.map((dot) => [Number(dot.dataset.dot), dot]));
    const hidden = new Set();
    let matrix = START;
    let places = [];
    let chosen = null;
    let frame = 0;

    function draw() {
      frame = 0;
      places = spec.at.map((p) => seen(matrix, p));
      for (const trail of trails) {
        const path = spec.paths[trail.dataset.dot];
        trail.setAttribute("points", path.map((p) => seen(matrix, p)).map(([x, y]) => `${x.toFixed(1)},${(-y).toFixed(1)}`).join(" "));
      }
      for (const ray of rays) {
        const [x, y] = seen(matrix, spec.arrows[ray.dataset.group]);
        ray.firstChild.setAttribute("d", `M0 0L${x.toFixed(1)} ${(-y).toFixed(1)}`);
        const name = ray.lastChild;
        name.setAttribute("x", (1.06 * x).toFixed(1));
        name.setAttribute("y", (-1.06 * y).toFixed(1));
        name.setAttribute("text-anchor", x > 12 ? "start" : x < -12 ? "end" : "middle");
      }
      dots.sort((a, b) => places[a.dataset.dot][2] - places[b.dataset.dot][2]);
      for (const dot of dots) {
        const [x, y, z] = places[dot.dataset.dot];
        const size = (1 + z / 300) * (Number(dot.dataset.dot) === chosen ? 1.9 : 1);
        dot.setAttribute("transform", `translate(${x.toFixed(1)} ${(-y).toFixed(1)}) scale(${size.toFixed(2)})`);
        view.append(dot); // what is near is drawn last
      }
      if (chosen !== null) view.append(byNumber.get(chosen));
      point();
    }
    const redraw = () => { frame = frame || requestAnimationFrame(draw); };

    /** Put the card beside the chosen point. */
    function point() {
      card.hidden = chosen === null;
      if (chosen === null) return;
      const box = cloud.getBoundingClientRect();
      const at = byNumber.get(chosen).getBoundingClientRect();
      const left = at.x + at.width / 2 - box.x;
      const right = left > box.width / 2;
      card.style.left = right ? "auto" : `${left + 12}px`;
      card.style.right = right ? `${box.width - left + 12}px` : "auto";
      // Outward, so that it hides few of the others: above a point in the upper half, below one in the lower half.
      const top = at.y + at.height / 2 - box.y;
      const stage = view.getBoundingClientRect().height;
      card.style.top = top < stage / 2 ? "auto" : `${top + 10}px`;
      card.style.bottom = top < stage / 2 ? `${box.height - top + 10}px` : "auto";
    }

    function choose(k, aloud = false) {
      if (k === chosen) return;
      if (chosen !== null) byNumber.get(chosen).classList.remove("on");
      for (const trail of trails) trail.classList.toggle("on", Number(trail.dataset.dot) === k);
      chosen = k;
      if (k !== null) {
        byNumber.get(k).classList.add("on");
        text.textContent = spec.labels[k];
        const [w, h, across] = spec.thumb;
        if (w) {
          canvas.width = w;
          canvas.height = h;
          canvas.getContext("2d").drawImage(sprite, (k % across) * w, Math.floor(k / across) * h, w, h, 0, 0, w, h);
        }
        if (aloud) said.textContent = spec.labels[k];
      }
      redraw();
    }

    const open = () => [...byNumber.keys()].filter((k) => !hidden.has(spec.groups[k])).sort((a, b) => a - b);
    function move(step) {
      const all = open();
      if (!all.length) return;
      const here = all.indexOf(chosen);
      choose(all[here < 0 ? (step > 0 ? 0 : all.length - 1) : (here + step + all.length) % all.length], true);
    }

    function nearest(event) {
      const box = view.getBoundingClientRect();
      const scale = box.width / view.viewBox.baseVal.width;
      const [left, top] = [view.viewBox.baseVal.x, view.viewBox.baseVal.y];
      const [x, y] = [(event.clientX - box.x) / scale + left, (event.clientY - box.y) / scale + top];
      let [best, least] = [null, NEAR / scale];
      for (const k of open()) {
        const far = Math.hypot(places[k][0] - x, -places[k][1] - y) - places[k][2] / 200; // of two, the one in front
        if (far < least) [best, least] = [k, far];
      }
      return best;
    }

    let from = null;
    let moved = false;
    view.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY];
      moved = false;
      view.setPointerCapture(event.pointerId);
    });
    view.addEventListener("pointermove", (event) => {
      if (!from) {
        if (event.pointerType !== "touch") choose(nearest(event));
        return;
      }
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      moved = true;
      from = [event.clientX, event.clientY];
      matrix = turned(matrix, dx / 120, dy / 120);
      redraw();
    });
    view.addEventListener("pointerup", (event) => {
      if (from && !moved) choose(nearest(event), true);
      from = null;
    });
    view.addEventListener("pointercancel", () => { from = null; });
    view.addEventListener("pointerleave", (event) => { if (!from && event.pointerType !== "touch") choose(null); });
    view.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
      if (turn) {
        matrix = turned(matrix, ...turn);
        redraw();
      } else if (event.key === "Enter" || event.key === " ") move(event.shiftKey ? -1 : 1);
      else if (event.key === "Home") {
        matrix = START;
        redraw();
      } else if (event.key === "Escape") choose(null);
      else return;
      event.preventDefault();
    });
    for (const button of cloud.querySelectorAll("[data-do]")) {
      button.addEventListener("click", () => {
        if (button.dataset.do === "reset") {
          matrix = START;
          choose(null);
          redraw();
        } else move(Number(button.dataset.do));
      });
    }
    for (const key of cloud.querySelectorAll(".cloud-key")) {
      key.addEventListener("click", () => {
        const group = Number(key.dataset.group);
        const shown = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", String(shown));
        if (shown) hidden.delete(group);
        else hidden.add(group);
        for (const dot of dots) dot.classList.toggle("gone", hidden.has(spec.groups[dot.dataset.dot]));
        for (const trail of trails) trail.classList.toggle("gone", hidden.has(spec.groups[trail.dataset.dot]));
        for (const ray of rays) ray.classList.toggle("gone", hidden.has(Number(ray.dataset.group)));
        if (chosen !== null && hidden.has(spec.groups[chosen])) choose(null);
      });
    }
    view.setAttribute("tabindex", "0");
    view.setAttribute("role", "application");
    view.setAttribute("aria-label", `${view.getAttribute("aria-label")}. Arrow keys turn it, Enter goes from point to point, Home turns it back.`);
    addEventListener("resize", point);
    draw();
    cloud.dataset.ready = "true";
  }
})();
