// The plots of a batch: throughput as it comes in, and how long items took. Drawn anew when the theme changes.
(() => {
  "use strict";

  const rateBox = document.querySelector('[data-plot="rate"]');
  const latencyBox = document.querySelector('[data-plot="latency"]');
  if (!rateBox || !latencyBox || !window.uPlot) return;

  const KEPT = 1800; // points, half an hour of them
  const times = [];
  const rates = [];
  let latency = [];
  let plots = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const size = (box) => ({ width: Math.max(200, Math.floor(box.clientWidth)), height: 190 });
  const whole = (value) => (value === null ? "" : value.toLocaleString("en").replaceAll(",", "\u202f"));
  const axis = (more) => ({
    stroke: colour("--soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui, sans-serif",
    ...more,
  });

  const drawRate = () =>
    new uPlot(
      {
        ...size(rateBox),
        legend: { show: false },
        cursor: { y: false },
        scales: { x: { range: (_, least, most) => [least, Math.max(most, least + 60)] }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.15)] } },
        axes: [axis({ values: "{HH}:{mm}:{ss}", space: 80 }), axis({ size: 54, values: (_, ticks) => ticks.map(whole) })],
        series: [
          {},
          {
            label: "items a second",
            stroke: colour("--accent"),
            fill: colour("--accent-wash"),
            width: 2,
            points: { show: false },
          },
        ],
      },
      [times, rates],
      rateBox,
    );

  const drawLatency = () =>
    new uPlot(
      {
        ...size(latencyBox),
        legend: { show: false },
        cursor: { y: false, points: { show: false } },
        scales: { x: { time: false, range: () => [-0.6, Math.max(0, latency.length - 1) + 0.6] }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
        axes: [
          axis({
            splits: () => latency.map((_, at) => at),
            values: (plot, ticks) => {
              const each = Math.ceil((ticks.length * 62) / plot.width);
              return ticks.map((at) => (at % each === 0 ? (latency[at]?.[0] ?? "") : ""));
            },
            grid: { show: false },
          }),
          axis({ size: 54, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? whole(tick) : "")) }),
        ],
        series: [
          {},
          {
            label: "items",
            stroke: colour("--busy"),
            fill: colour("--busy"),
            paths: uPlot.paths.bars({ size: [0.72, 90], radius: 0.12 }),
            points: { show: false },
          },
        ],
      },
      [latency.map((_, at) => at), latency.map((each) => each[1])],
      latencyBox,
    );

  const draw = () => {
    plots.forEach((plot) => plot.destroy());
    plots = [drawRate(), drawLatency()];
  };

  const table = document.querySelector("#latency-table tbody");
  const tell = () => {
    table.replaceChildren(
      ...latency.map(([title, count]) => {
        const row = document.createElement("tr");
        for (const text of [title, whole(count)]) {
          const cell = document.createElement("td");
          cell.textContent = text;
          row.append(cell);
        }
        row.lastChild.className = "figure";
        return row;
      }),
    );
  };

  const take = () => {
    const holder = document.querySelector("[data-numbers]");
    if (!holder) return;
    const told = JSON.parse(holder.dataset.numbers);
    if (times.length && told.at <= times[times.length - 1]) return;
    times.push(told.at);
    rates.push(told.rate);
    if (times.length > KEPT) {
      times.shift();
      rates.shift();
    }
    const known = latency.length === told.latency.length;
    latency = told.latency;
    tell();
    if (!plots.length || !known) draw();
    else {
      plots[0].setData([times, rates]);
      plots[1].setData([latency.map((_, at) => at), latency.map((each) => each[1])]);
    }
  };

  take();
  document.body.addEventListener("htmx:sseMessage", take);
  new ResizeObserver(() => {
    if (plots.length && Math.abs(plots[0].width - size(rateBox).width) > 1) draw();
  }).observe(rateBox);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
