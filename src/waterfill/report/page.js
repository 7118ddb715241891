(() => {
  "use strict";
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 36rem)");
  const data = (id) => document.getElementById(id).textContent;
  const dark = JSON.parse(data("dark-colours"));
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false };
  const choice = document.getElementById("picture-choice");
  const pictures = choice ? JSON.parse(data("pictures")) : {};

  // Of a single picture: its own points, and nothing of lines that are means of others.
  function ofPicture(traces, curves) {
    for (const trace of traces) {
      const points = curves[trace.meta];
      if (points) Object.assign(trace, { x: points.x, y: points.y, customdata: points.text });
      else trace.visible = false;
    }
  }

  // On a phone names stand below each other, which is not to cost the plot its height; words under
  // columns stand upright. The buttons for the mouse would lie over those of the figure.
  function fitNarrow({ data: lines, layout }) {
    layout.height += 12 * lines.length;
    if (layout.xaxis.tickangle === 0) layout.xaxis.tickangle = -90;
  }

  function draw() {
    for (const host of document.querySelectorAll("[data-figure]")) {
      // All colours in one pass: a dark colour may be the light one of something else.
      const text = data(host.dataset.figure).replace(/#[0-9a-f]{6}/g, (colour) =>
        night.matches ? dark[colour] ?? colour : colour);
      const figure = JSON.parse(text);
      if (choice && choice.value) ofPicture(figure.data, pictures[choice.value][host.dataset.figure]);
      if (narrow.matches) fitNarrow(figure);
      const displayModeBar = narrow.matches ? false : "hover";
      Plotly.react(host, figure.data, figure.layout, { ...config, displayModeBar });
    }
  }
  draw();
  night.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  if (choice) choice.addEventListener("change", draw);

  for (const input of document.querySelectorAll(".slide input")) {
    const picture = document.getElementById(input.dataset.compares);
    const move = () => picture.style.setProperty("--cut", `${input.value}%`);
    input.addEventListener("input", move);
    move(); // browsers keep the position of sliders over a reload
  }
})();
