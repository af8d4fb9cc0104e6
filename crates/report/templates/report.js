(() => {
  "use strict";
  const root = document.documentElement;

  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { toggle.textContent = dark() ? "Light" : "Dark"; };
  // Storage may be refused to a page from disk; the toggle works without.
  try {
    const kept = localStorage.getItem("realign-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch { /* not kept */ }
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("realign-theme", root.dataset.theme); } catch { /* not kept */ }
    name();
  });
  system.addEventListener("change", name);
  name();

  // Titles become tooltips that a finger and the keyboard can open too.
  for (const mark of document.querySelectorAll("svg .tip")) {
    mark.dataset.tip = mark.getAttribute("aria-label");
    mark.querySelector("title").remove();
  }
  for (const token of document.querySelectorAll(".tok[title]")) {
    token.dataset.tip = token.title;
    token.removeAttribute("title");
  }
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (event) => {
    const mark = event.target.closest && event.target.closest("[data-tip]");
    if (!mark) return hide();
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const visible = mark.querySelector(".bar, .mark") || mark;
    const at = visible.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const x = at.left + at.width / 2 - own.width / 2;
    const above = at.top - own.height - 8;
    tip.style.left = Math.max(8, Math.min(x, root.clientWidth - own.width - 8)) + "px";
    tip.style.top = (above < 8 ? at.bottom + 8 : above) + "px";
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("click", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // A saved figure carries the colours that it has now, since the page's styles stay behind.
  const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray",
    "stroke-linejoin", "stroke-linecap", "font-family", "font-size", "font-style",
    "font-variant-numeric", "paint-order"];
  const picture = (svg) => {
    const copy = svg.cloneNode(true);
    const to = [copy, ...copy.querySelectorAll("*")];
    [svg, ...svg.querySelectorAll("*")].forEach((from, i) => {
      const style = getComputedStyle(from);
      to[i].setAttribute("style", kept.map((k) => k + ":" + style.getPropertyValue(k)).join(";"));
      for (const name of ["class", "tabindex", "data-tip"]) to[i].removeAttribute(name);
    });
    for (const mark of copy.querySelectorAll("g[aria-label]")) {
      const title = document.createElementNS(svg.namespaceURI, "title");
      title.textContent = mark.getAttribute("aria-label");
      mark.prepend(title);
    }
    const back = document.createElementNS(svg.namespaceURI, "rect");
    back.setAttribute("width", "100%");
    back.setAttribute("height", "100%");
    back.setAttribute("fill", getComputedStyle(document.body).backgroundColor);
    copy.prepend(back);
    return new XMLSerializer().serializeToString(copy);
  };
  for (const button of document.querySelectorAll(".save")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const figure = button.closest("figure");
      const svg = [...figure.querySelectorAll("svg")].find((s) => s.getClientRects().length > 0);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([picture(svg)], { type: "image/svg+xml" }));
      link.download = figure.dataset.file + ".svg";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
})();
