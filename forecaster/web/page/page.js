"use strict";
// The live page: asks this worker's API, and draws. It changes nothing.

const STATUS_MS = 2000, FORECAST_MS = 1500, EXPLAIN_MS = 5000, MODELS_MS = 10000;
const LAYOUT = {
  margin: {l: 55, r: 15, t: 10, b: 40}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: {family: "system-ui, sans-serif", size: 12}, legend: {orientation: "h", y: 1.12}, hovermode: "x unified",
};
const OPTIONS = {displayModeBar: false, responsive: true};
const COLOURS = ["#7b8794", "#c78c1e", "#8a6fb5", "#4f9d8c", "#b5576b", "#6c8f3c", "#a0643c", "#5f7fb8", "#1f6fb2", "#0f4c81", "#38a3d1", "#27ae60"];
const byId = (id) => document.getElementById(id);

let series = "", before = null, fans = new Map(), truths = new Map();

async function ask(path) {
  const answer = await fetch("api/v1/" + path, {headers: {Accept: "application/json"}});
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error || answer.statusText), {status: answer.status});
  return body;
}

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text || "";
}

/** Repeats a task while somebody looks; what goes wrong is said, and tried again. */
function every(milliseconds, task) {
  const turn = async () => {
    try {
      if (!document.hidden) { await task(); }
      if (task.failed) { task.failed = false; trouble(""); }
    } catch (error) {
      task.failed = true;
      if (error.status === 404) forget();
      trouble(error.status ? error.message : "This worker does not answer: " + error.message);
    }
    setTimeout(turn, milliseconds);
  };
  turn();
}

function cell(text) {
  const one = document.createElement("td");
  one.textContent = text === null || text === undefined ? "–" : text;
  return one;
}

function rows(id, table) {
  byId(id).replaceChildren(...table.map((line) => {
    const row = document.createElement("tr");
    row.append(...line.map(cell));
    return row;
  }));
}

function figures(pairs) {
  byId("figures").replaceChildren(...pairs.map(([name, value]) => {
    const box = document.createElement("div"), title = document.createElement("dt"), figure = document.createElement("dd");
    title.textContent = name;
    figure.textContent = value;
    box.append(title, figure);
    return box;
  }));
}

const sum = (counts) => Object.values(counts).reduce((total, one) => total + one, 0);
const whole = (value) => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");

function span(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

async function showStatus() {
  const now = await ask("status");
  byId("where").textContent = `${now.input} · group ${now.group} · ${now.role} · version ${now.version}`;
  byId("ready").textContent = now.ready ? "ready" : now.why_not;
  byId("ready").className = "badge " + (now.ready ? "good" : "bad");
  const seconds = before && now.as_of_ms > before.as_of_ms ? (now.as_of_ms - before.as_of_ms) / 1000 : null;
  const rate = seconds ? (now.forecasts - before.forecasts) / seconds : null;
  if (!before || seconds) before = now;
  if (rate !== null || !byId("figures").children.length) {
    figures([
      ["series here", whole(now.series)], ["readings", whole(sum(now.readings))],
      ["forecasts", whole(now.forecasts)], ["forecasts a second", whole(rate)],
      ["dead letters", whole(sum(now.dead_letters))],
      ["records that wait", whole(now.partitions.reduce((total, one) => total + (one.lag || 0), 0))],
      ["up for", span(now.uptime_seconds)],
    ]);
  }
  rows("partitions", now.partitions.map((one) => [
    one.partition, one.state, whole(one.lag), whole(one.position), whole(one.series), whole(one.replay), one.checkpoint]));
  byId("training").textContent = now.training === null ? "This process does not train." :
    (now.training.elected ? "This process trains for the fleet" : "Another process of the fleet trains") +
    (now.training.running ? `; a ${now.training.running} is under way.` : ".");
  showScores(now);
}

function showScores(now) {
  const scored = now.scores.filter((one) => one.scored > 0);
  const horizon = scored.map((one) => one.horizon);
  const x = {title: {text: "ticks ahead"}, rangemode: "tozero"};
  Plotly.react("error", [
    {x: horizon, y: scored.map((one) => one.scaled_error / one.scaled_last_error), name: "forecaster", mode: "lines+markers", line: {color: "#1f6fb2"}},
    {x: horizon, y: horizon.map(() => 1), name: "last value", mode: "lines", line: {color: "#7b8794", dash: "dash"}},
  ], {...LAYOUT, xaxis: x, yaxis: {rangemode: "tozero"}}, OPTIONS);
  const nominal = now.levels.length > 1 ? now.levels[now.levels.length - 1] - now.levels[0] : null;
  Plotly.react("coverage", [
    {x: horizon, y: scored.map((one) => one.interval_coverage), name: "inside", mode: "lines+markers", line: {color: "#1f6fb2"}},
    {x: horizon, y: horizon.map(() => nominal), name: "should be", mode: "lines", line: {color: "#7b8794", dash: "dash"}},
  ], {...LAYOUT, xaxis: x, yaxis: {range: [0, 1], tickformat: ".0%"}}, OPTIONS);
}

const date = (milliseconds) => new Date(milliseconds).toISOString();

/** The band between two lines, and the line in it. */
function fan(forecast, name, colour, opacity) {
  const levels = Object.keys(forecast.quantiles).sort((one, other) => one - other);
  const x = forecast.timestamps.map(date), low = forecast.quantiles[levels[0]], high = forecast.quantiles[levels[levels.length - 1]];
  const edge = {x, mode: "lines", line: {width: 0}, hoverinfo: "skip", showlegend: false};
  return [
    {...edge, y: low}, {...edge, y: high, fill: "tonexty", fillcolor: colour + opacity},
    {x, y: forecast.point, name, mode: "lines", line: {color: colour, width: opacity === "33" ? 2 : 1, dash: opacity === "33" ? "solid" : "dot"}},
  ];
}

async function showForecast() {
  if (!series) return;
  const asked = series, now = await ask("forecasts/" + encodeURIComponent(series));
  if (asked !== series || now.interval_ms === null) return;
  now.past_ms.forEach((stamp, place) => truths.set(stamp, now.past[place]));
  fans.set(now.timestamp, now);
  const reach = now.timestamps[now.timestamps.length - 1] - now.timestamp, first = now.timestamp - 3 * reach;
  for (const stamp of truths.keys()) if (stamp < first) truths.delete(stamp);
  for (const made of fans.keys()) if (made < now.timestamp - reach) fans.delete(made);
  const earlier = [...fans.keys()].filter((made) => made < now.timestamp);
  const middle = now.timestamp - reach / 2;
  const nearest = earlier.sort((one, other) => Math.abs(one - middle) - Math.abs(other - middle))[0];
  const shown = [...truths.entries()].sort((one, other) => one[0] - other[0]);
  Plotly.react("fan", [
    ...(nearest === undefined ? [] : fan(fans.get(nearest), "forecast earlier", "#8a6fb5", "1c")),
    ...fan(now, "forecast", "#1f6fb2", "33"),
    {x: shown.map((one) => date(one[0])), y: shown.map((one) => one[1]), name: "readings (denoised)", mode: "lines", line: {color: "#1d2733", width: 1.5}},
  ], {...LAYOUT, xaxis: {type: "date"}}, OPTIONS);
}

async function showWeights() {
  if (!series) return;
  const asked = series, now = await ask("series/" + encodeURIComponent(series));
  if (asked !== series || !now.pending.length) return;
  const x = now.pending.map((one) => "+" + one.horizon);
  const bars = Object.keys(now.pending[0].weights).map((name, place) => ({
    x, y: now.pending.map((one) => one.weights[name]), name, type: "bar", marker: {color: COLOURS[place % COLOURS.length]},
  })).filter((bar) => bar.y.some((weight) => weight >= 0.005));
  const gate = {x, y: now.pending.map((one) => one.gate), name: "gate", mode: "lines+markers", line: {color: "#1d2733"}};
  Plotly.react("weights", [...bars, gate],
    {...LAYOUT, barmode: "stack", legend: {orientation: "v"}, hovermode: "closest", yaxis: {range: [0, 1.02], tickformat: ".0%"}, xaxis: {type: "category"}}, OPTIONS);
}

async function showModels() {
  const now = await ask("models");
  const loss = (value) => value === null ? "–" : value.toPrecision(4);
  rows("decisions", now.decisions.slice(0, 8).map((one) => [
    one.at.replace("T", " ").slice(0, 16), one.checkpoint, one.work, loss(one.challenger_loss), loss(one.champion_loss),
    one.checkpoint === now.champion ? "serves" : one.promoted ? "promoted" : "rejected"]));
  if (!now.decisions.length) rows("decisions", [["nothing decided yet", "", "", "", "", ""]]);
}

async function findSeries() {
  const page = await ask("series?limit=200&search=" + encodeURIComponent(byId("search").value));
  byId("names").replaceChildren(...page.series.map((name) => Object.assign(document.createElement("option"), {value: name})));
  byId("found").textContent = `${whole(page.found)} of this worker`;
  return page.series;
}

function choose(name) {
  if (name === series) return;
  series = name;
  fans = new Map();
  truths = new Map();
  history.replaceState(null, "", "#" + encodeURIComponent(name));
  Promise.all([showForecast(), showWeights()]).catch((error) => trouble(error.message));
}

/** The series is not here, or not any more: another one is chosen. */
function forget() {
  series = byId("search").value = "";
  history.replaceState(null, "", location.pathname);
}

byId("search").addEventListener("input", async () => {
  try {
    const found = await findSeries();
    if (found.includes(byId("search").value)) choose(byId("search").value);
  } catch (error) { trouble(error.message); }
});

function named(hash) {
  try { return decodeURIComponent(hash); } catch { return ""; }
}

async function begin() {
  if (series) return;
  const wanted = named(location.hash.slice(1)), found = await findSeries();
  if (wanted || found.length) {
    choose(wanted || found[0]);
    byId("search").value = series;
  }
}

every(STATUS_MS, showStatus);
every(STATUS_MS, begin);
every(FORECAST_MS, showForecast);
every(EXPLAIN_MS, showWeights);
every(MODELS_MS, showModels);
