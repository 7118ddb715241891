(() => {
  "use strict";
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const data = (id) => document.getElementById(id).textContent;
  const dark = JSON.parse(data("dark-colours"));
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, showEditInChartStudio: false };

  function draw() {
    for (const host of document.querySelectorAll("[data-figure]")) {
      // All colours in one pass: a dark colour may be the light one of something else.
      const text = data(host.dataset.figure).replace(/#[0-9a-f]{6}/g, (colour) =>
        night.matches ? dark[colour] ?? colour : colour);
      const figure = JSON.parse(text);
      Plotly.newPlot(host, figure.data, figure.layout, config);
    }
  }
  draw();
  night.addEventListener("change", draw);

  for (const input of document.querySelectorAll(".slide input")) {
    const picture = document.getElementById(input.dataset.compares);
    const move = () => picture.style.setProperty("--cut", `${input.value}%`);
    input.addEventListener("input", move);
    move(); // browsers keep the position of sliders over a reload
  }
})();
