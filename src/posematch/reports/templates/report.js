"use strict";
// Plotly draws; the page's style sheet has the colours, and says when it is dark.
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");
// A finger that drags scrolls the page; zooming is then what the buttons do.
const coarse = matchMedia("(pointer: coarse)");

function coloured(spec) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue("--" + name).trim();
  const copy = structuredClone(spec);
  for (const trace of copy.data) {
    trace.line = { ...trace.line, color: colour(trace.meta) };
    trace.marker = { ...trace.marker, color: colour(trace.meta) };
  }
  const layout = copy.layout;
  Object.assign(layout, {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), size: narrow.matches ? 11 : 12, family: getComputedStyle(document.body).fontFamily },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("link") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    dragmode: coarse.matches ? false : "zoom",
  });
  for (const name of Object.keys(layout).filter((one) => /^[xy]axis\d*$/.test(one))) {
    const axis = layout[name];
    const own = layout.meta[name] ? colour(layout.meta[name]) : colour("ink");
    Object.assign(axis, { gridcolor: colour("grid"), zerolinecolor: colour("grid"), linecolor: colour("line"), tickcolor: colour("line") });
    axis.tickfont = { ...axis.tickfont, color: own };
    axis.title = { ...axis.title, font: { color: own } };
  }
  return copy;
}

function draw() {
  for (const [name, spec] of Object.entries(plots)) {
    const { data, layout } = coloured(spec);
    const place = document.getElementById("plot-" + name);
    // What was zoomed stays so when the colours change.
    if (place.layout) {
      for (const axis of Object.keys(layout).filter((one) => /^[xy]axis\d*$/.test(one))) {
        layout[axis].range = place.layout[axis].range;
        layout[axis].autorange = place.layout[axis].autorange;
      }
    }
    Plotly.react(place, data, layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: coarse.matches ? true : "hover",
      // Named one by one: others share the plot with a server.
      modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
    });
  }
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
draw();
