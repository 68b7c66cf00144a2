"use strict";
(() => {
  const root = document.documentElement;
  const charts = new Map();

  // ---- charts: drawn when they come into view, with the colors of the theme ----

  const styles = () => getComputedStyle(root);

  /** Replace color tokens such as "$series-0" by the theme's colors. */
  function painted(value, css) {
    if (typeof value === "string") {
      return value.startsWith("$") ? css.getPropertyValue("--" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) {
      // Data points are arrays of numbers: nothing to paint in them, and there are many.
      return value.length && typeof value[0] !== "object" && typeof value[0] !== "string"
        ? value
        : value.map((item) => painted(item, css));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, css)]));
    }
    return value;
  }

  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e7 || size < 1e-4)) return value.toExponential(2).replace("-", "−");
    const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 4;
    return value.toLocaleString("en-US", { maximumFractionDigits: digits }).replace("-", "−");
  }

  function tooltip(spec) {
    const unit = (suffix) => (suffix === "%" ? "%" : suffix ? " " + suffix : "");
    const [x, y] = [unit(spec.xUnit), unit(spec.yUnit)];
    const show = (value, suffix) =>
      suffix === "%" && value !== null ? number(Math.round(10 * value) / 10) : number(value);
    const plain = (text) => String(text).replaceAll("{", "(").replaceAll("}", ")"); // braces style rich text
    return (items) => {
      const points = [items].flat().filter((item) => String(item.seriesId).startsWith("line-"));
      if (!points.length) return "";
      const at = spec.flat ? 1 : 0;
      const first = points[0].value;
      const lines = [spec.bars ? plain(points[0].name || points[0].axisValueLabel) : `${plain(spec.xLabel)}: ${show(first[at], x)}${x}`];
      for (const { seriesName, value } of points) {
        let line = `${plain(seriesName)}: ${show(value[1 - at], y)}${y}`;
        if (value.length > 3 && value[2] !== null) line += `  (${show(value[2], y)} to ${show(value[3], y)}${y})`;
        lines.push(line);
      }
      return lines.join("\n");
    };
  }

  function draw(box) {
    const held = charts.get(box);
    if (held) return held;
    const spec = JSON.parse(document.getElementById(box.id + "-data").textContent);
    const chart = echarts.init(box, null, { renderer: "canvas", devicePixelRatio: Math.max(2, devicePixelRatio || 1) });
    const entry = { chart, spec };
    charts.set(box, entry);
    paint(entry);
    box.dataset.drawn = "true";
    for (const key of document.querySelectorAll(`[data-chart="${box.id}"]`)) {
      key.addEventListener("click", () => {
        const shown = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", String(shown));
        chart.dispatchAction({ type: shown ? "legendSelect" : "legendUnSelect", name: key.dataset.name });
      });
    }
    return entry;
  }

  function paint({ chart, spec }) {
    const options = painted(spec.options, styles());
    if (chart.getWidth() < 420) {
      options.xAxis.splitNumber = 3;
      if (spec.flat) options.yAxis.axisLabel.width = 0.3 * chart.getWidth();
    }
    options.textStyle = { fontFamily: styles().getPropertyValue("--font") };
    options.tooltip.formatter = tooltip(spec);
    options.tooltip.textStyle.fontFamily = options.textStyle.fontFamily;
    chart.setOption(options, { notMerge: true });
  }

  const boxes = [...document.querySelectorAll(".chart-canvas")];
  for (const box of boxes) box.style.height = `${box.dataset.height}px`;
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watch.unobserve(target);
          draw(target);
        }
      },
      { rootMargin: "240px 0px" },
    );
    boxes.forEach((box) => watch.observe(box));
  } else {
    boxes.forEach(draw);
  }

  let resizing = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(() => charts.forEach(({ chart }) => chart.resize()));
  });

  // ---- theme ----

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const toggle = document.getElementById("theme");

  function repaint() {
    const other = theme() === "dark" ? "light" : "dark";
    toggle.textContent = other === "dark" ? "Dark" : "Light";
    toggle.setAttribute("aria-label", `Switch to the ${other} theme`);
    charts.forEach(paint);
  }
  toggle.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("pellucid-theme", root.dataset.theme);
    } catch {
      // Not stored; it holds until the page is closed.
    }
    repaint();
  });
  dark.addEventListener("change", repaint);
  repaint();

  // ---- print: everything drawn, in the light theme, at the width of a page ----

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    boxes.forEach(draw);
    charts.forEach((entry) => {
      entry.chart.resize({ width: 640 });
      paint(entry);
      entry.chart.getZr().flush(); // the page is printed before the next frame
    });
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    charts.forEach((entry) => {
      entry.chart.resize({ width: "auto" });
      paint(entry);
    });
  });

  // ---- copy buttons ----

  const said = document.getElementById("said");
  async function copy(button) {
    const code = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    said.textContent = "Command copied";
    setTimeout(() => {
      button.textContent = "Copy";
      said.textContent = "";
    }, 1600);
  }
  document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button)));

  // ---- marks on pictures: a button keeps its mark shown ----

  document.querySelectorAll(".picture").forEach((picture) => {
    const buttons = [...picture.querySelectorAll(".mark-button")];
    const show = (chosen) =>
      picture.querySelectorAll(".mark").forEach((mark) => mark.classList.toggle("on", mark.dataset.mark === chosen));
    const pressed = () => buttons.find((button) => button.getAttribute("aria-pressed") === "true");
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const was = button.getAttribute("aria-pressed") === "true";
        buttons.forEach((other) => other.setAttribute("aria-pressed", "false"));
        button.setAttribute("aria-pressed", String(!was));
        show(was ? "" : button.dataset.mark);
      });
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => show(button.dataset.mark));
      for (const name of ["pointerleave", "blur"]) {
        button.addEventListener(name, () => show(pressed() ? pressed().dataset.mark : ""));
      }
    }
  });

  // ---- graphs: a node lights up all that it is made of and all that is made of it, and its players beside ----

  document.querySelectorAll(".parse").forEach((parse) => {
    const nodes = [...parse.querySelectorAll(".node")];
    const links = [...parse.querySelectorAll(".parse-main .link[data-a]")];
    const places = [...parse.querySelectorAll("[data-player]")];
    const readout = parse.querySelector(".readout bdi");
    const hint = readout.textContent;
    const [above, below] = [new Map(), new Map()];
    for (const { dataset } of links) {
      for (const [map, from, to] of [[below, dataset.a, dataset.b], [above, dataset.b, dataset.a]]) {
        if (!map.has(from)) map.set(from, new Set());
        map.get(from).add(to);
      }
    }
    const owners = new Map(); // the node of each player
    for (const node of nodes) {
      if (!node.classList.contains("player")) continue;
      for (const player of node.dataset.players.split(" ")) owners.set(player, node.dataset.node);
    }
    let kept = null;

    function reach(map, start) {
      const found = new Set([start]);
      for (const node of found) for (const next of map.get(node) || []) found.add(next); // grows while it is walked
      return found;
    }

    function show(chosen) {
      const node = nodes.find((other) => other.dataset.node === chosen);
      parse.classList.toggle("lighting", Boolean(node));
      readout.textContent = node ? node.getAttribute("aria-label") : hint;
      readout.parentElement.classList.toggle("said", Boolean(node));
      if (!node) return;
      const [down, up] = [reach(below, chosen), reach(above, chosen)];
      for (const other of nodes) other.classList.toggle("lit", down.has(other.dataset.node) || up.has(other.dataset.node));
      for (const link of links) {
        const { a, b } = link.dataset;
        link.classList.toggle("lit", (down.has(a) && down.has(b)) || (up.has(a) && up.has(b)));
      }
      const players = new Set(node.dataset.players.split(" ").filter(Boolean));
      parse.classList.toggle("beside", players.size > 0);
      for (const place of places) {
        place.classList.toggle("lit", players.has(place.dataset.player));
        for (const sign of ["for", "against"]) place.classList.toggle(sign, node.classList.contains(sign));
      }
    }

    function keep(chosen) {
      kept = kept === chosen ? null : chosen;
      for (const node of nodes) node.setAttribute("aria-selected", String(node.dataset.node === kept));
      show(kept ?? chosen);
    }

    function reachable(node) {
      const all = [...node.ownerSVGElement.querySelectorAll(".node")];
      all.forEach((other) => other.setAttribute("tabindex", other === node ? "0" : "-1"));
      node.focus({ preventScroll: false });
    }

    const box = (node) => node.querySelector(".box").getBoundingClientRect();
    const center = (node) => box(node).x + box(node).width / 2;
    const nearest = (node, among) =>
      among.reduce((best, other) => (best && Math.abs(center(best) - center(node)) <= Math.abs(center(other) - center(node)) ? best : other), null);

    function next(node, key) {
      const layers = [...node.ownerSVGElement.querySelectorAll("[role=group]")].map((layer) => [...layer.querySelectorAll(".node")]);
      const layer = layers.findIndex((members) => members.includes(node));
      if (key === "ArrowUp" || key === "ArrowDown") {
        const [map, step] = key === "ArrowUp" ? [above, -1] : [below, 1];
        const linked = layers.flat().filter((other) => map.get(node.dataset.node)?.has(other.dataset.node));
        return nearest(node, linked.length ? linked : layers[layer + step] || []);
      }
      const seen = layers[layer].toSorted((a, b) => Math.round(box(a).y - box(b).y) || center(a) - center(b));
      if (key === "Home") return seen[0];
      if (key === "End") return seen.at(-1);
      const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
      return step ? seen[(seen.indexOf(node) + step + seen.length) % seen.length] : null;
    }

    for (const node of nodes) {
      const own = node.dataset.node;
      node.addEventListener("pointerenter", () => show(own));
      node.addEventListener("pointerleave", () => show(kept));
      node.addEventListener("focus", () => show(own));
      node.addEventListener("blur", () => show(kept));
      node.addEventListener("click", () => keep(own));
      node.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") keep(own);
        else if (event.key === "Escape") kept = null;
        else {
          const other = next(node, event.key);
          if (!other) return;
          reachable(other);
        }
        event.preventDefault();
      });
    }
    for (const place of places) {
      place.addEventListener("pointerenter", () => show(owners.get(place.dataset.player) ?? kept));
      place.addEventListener("pointerleave", () => show(kept));
      place.addEventListener("click", () => owners.has(place.dataset.player) && keep(owners.get(place.dataset.player)));
    }
    show(null);
  });

  // ---- images under maps: what is chosen on one image is chosen on all, as long as the box says so ----

  document.querySelectorAll(".choosers").forEach((choosers) => {
    const together = choosers.previousElementSibling.querySelector("input");
    choosers.addEventListener("change", ({ target }) => {
      if (!together.checked) return;
      for (const other of choosers.querySelectorAll(`input[value="${target.value}"]`)) other.checked = true;
    });
  });

  // ---- table of contents: say where the reader is ----

  const links = [...document.querySelectorAll(".contents a")];
  const targets = links.map((link) => document.getElementById(link.hash.slice(1)));
  function locate() {
    const line = innerHeight / 3;
    const atEnd = innerHeight + scrollY >= root.scrollHeight - 2;
    const here = atEnd && scrollY > 0 ? targets.length - 1 : targets.findLastIndex((target) => target.getBoundingClientRect().top < line);
    links.forEach((link, k) => {
      if (k === Math.max(0, here)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }
  let locating = 0;
  addEventListener(
    "scroll",
    () => {
      cancelAnimationFrame(locating);
      locating = requestAnimationFrame(locate);
    },
    { passive: true },
  );
  locate();

  performance.mark("pellucid-ready");
})();
