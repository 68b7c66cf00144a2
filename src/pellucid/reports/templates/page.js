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
