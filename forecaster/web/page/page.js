"use strict";
// The live page: asks the API of this worker and draws the answers. It changes nothing.

const STATUS_MS = 2000, FORECAST_MS = 1500, LIST_MS = 5000, FIRST_LIST_MS = 700, EXPLAIN_MS = 3000, MODELS_MS = 10000;
/** A failure is shown after this time without an answer: a single late answer needs no action. */
const TROUBLE_MS = 10000;
const LISTED = 500;
const LAYOUT = {
  margin: {l: 48, r: 12, t: 8, b: 34}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: {family: "system-ui, sans-serif", size: 12}, legend: {orientation: "h", y: 1.16, font: {size: 11}}, hovermode: "x unified",
  uirevision: "kept",
};
const OPTIONS = {displayModeBar: false, responsive: true};
const COLOURS = ["#7b8794", "#c78c1e", "#8a6fb5", "#4f9d8c", "#b5576b", "#6c8f3c", "#a0643c", "#5f7fb8", "#1f6fb2", "#0f4c81", "#38a3d1", "#27ae60"];
const byId = (id) => document.getElementById(id);
const phone = matchMedia("(max-width: 700px)");
/** Figures and the list are shown at once; charts wait until their script has loaded. */
const loaded = new Promise((resolve) => addEventListener("load", resolve));

/** The user's choices; they survive a reload of the page. */
const chosen = {series: "", search: "", horizon: 0, scroll: 0, ...stored()};
let isTrainer = false, latest = null, fans = new Map(), truths = new Map();

function stored() {
  try { return JSON.parse(sessionStorage.getItem("chosen")) || {}; } catch { return {}; }
}

function save() {
  try { sessionStorage.setItem("chosen", JSON.stringify(chosen)); } catch { /* without storage, a reload starts with the defaults */ }
  history.replaceState(null, "", chosen.series ? "#" + encodeURIComponent(chosen.series) : location.pathname);
}

async function ask(path) {
  const answer = await fetch("api/v1/" + path, {headers: {Accept: "application/json"}});
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error || answer.statusText), {status: answer.status});
  return body;
}

const failures = new Map();

/** Repeats a task while the page is visible. */
function every(task, milliseconds) {
  const repeat = async () => {
    if (!document.hidden) await attempt(task);
    setTimeout(repeat, typeof milliseconds === "function" ? milliseconds() : milliseconds);
  };
  repeat();
}

async function attempt(task) {
  try {
    await task();
    failures.delete(task);
  } catch (error) {
    if (error.status === 404) return forget(task);
    const since = failures.has(task) ? failures.get(task).since : Date.now();
    failures.set(task, {since, text: error.status ? error.message : "this process does not answer; it has ended, or the network is down"});
  }
  showTrouble();
}

function showTrouble() {
  const lasting = [...failures.values()].filter((failure) => Date.now() - failure.since >= TROUBLE_MS);
  byId("trouble").hidden = !lasting.length;
  if (lasting.length) byId("trouble").textContent = `For ${span((Date.now() - lasting[0].since) / 1000)}: ${lasting[0].text}`;
}

/** Draws or updates a chart; zoom and hidden traces are kept. */
async function draw(id, traces, layout) {
  await loaded;
  if (!byId(id).hasChildNodes()) await Plotly.newPlot(id, traces, {...LAYOUT, ...layout}, OPTIONS);
  else await Plotly.react(id, traces, {...LAYOUT, ...layout}, OPTIONS);
}

/** Returns an id with an escape in place of each character that cannot be seen or that reorders the others. */
function shown(name) {
  return name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

function cell(text) {
  const data = document.createElement("td");
  data.textContent = text === null || text === undefined ? "–" : text;
  return data;
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

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const integer = (value) => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
const number = (value) => value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toLocaleString("en", {maximumSignificantDigits: 4});

function span(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

async function showStatus() {
  const now = await ask("status");
  isTrainer = now.role === "trainer";
  document.body.classList.toggle("trainer", isTrainer);
  byId("where").textContent = `${now.input} · group ${now.group} · ${now.role} · version ${now.version}`;
  byId("ready").textContent = now.ready ? "ready" : now.why_not;
  byId("ready").className = "badge " + (now.ready ? "good" : "bad");
  figures([
    ["series", integer(now.series)], ["readings", integer(sum(now.readings))], ["forecasts", integer(now.forecasts)],
    ["forecasts per second", integer(now.forecasts_per_second || 0)], ["dead letters", integer(sum(now.dead_letters))],
    ["lag, records", integer(now.partitions.reduce((total, partition) => total + (partition.lag || 0), 0))],
    ["uptime", span(now.uptime_seconds)],
  ]);
  rows("partitions", now.partitions.map((partition) => [
    partition.partition, partition.state, integer(partition.lag), integer(partition.position), integer(partition.series),
    integer(partition.replay), partition.checkpoint]));
  byId("training").textContent = now.training === null ? "This process does not train." :
    (now.training.elected ? "This process trains for the fleet" : "Another process trains for the fleet") +
    (now.training.running ? `; a ${now.training.running} run is under way.` : ".");
  await showScores(now);
}

async function showScores(now) {
  const scored = now.scores.filter((score) => score.scored > 0);
  if (!scored.length) return;
  const horizon = scored.map((score) => score.horizon);
  const xaxis = {title: {text: "ticks ahead", standoff: 4}, rangemode: "tozero"};
  const shapes = chosen.horizon ? [{type: "line", x0: chosen.horizon, x1: chosen.horizon, yref: "paper", y0: 0, y1: 1,
    line: {color: "#b9c3cc", width: 1, dash: "dot"}}] : [];
  const nominal = now.levels.length > 1 ? now.levels[now.levels.length - 1] - now.levels[0] : null;
  await draw("error", [
    {x: horizon, y: scored.map((score) => score.scaled_error / score.scaled_last_error), name: "forecaster", mode: "lines+markers", line: {color: "#1f6fb2"}},
    {x: horizon, y: horizon.map(() => 1), name: "last value", mode: "lines", line: {color: "#7b8794", dash: "dash"}},
  ], {xaxis, shapes, yaxis: {rangemode: "tozero"}});
  await draw("coverage", [
    {x: horizon, y: scored.map((score) => score.interval_coverage), name: "inside", mode: "lines+markers", line: {color: "#1f6fb2"}},
    {x: horizon, y: horizon.map(() => nominal), name: "nominal", mode: "lines", line: {color: "#7b8794", dash: "dash"}},
  ], {xaxis, shapes, yaxis: {range: [0, 1], tickformat: ".0%"}});
}

const date = (milliseconds) => new Date(milliseconds).toISOString();

/** Returns the first part of a forecast, up to a number of ticks ahead. */
function cut(forecast, ticks) {
  const count = forecast.timestamps.filter((timestamp) => timestamp <= forecast.timestamp + ticks * forecast.interval_ms).length || 1;
  const quantiles = Object.fromEntries(Object.entries(forecast.quantiles).map(([level, values]) => [level, values.slice(0, count)]));
  return {...forecast, timestamps: forecast.timestamps.slice(0, count), point: forecast.point.slice(0, count), quantiles};
}

const levels = (forecast) => Object.keys(forecast.quantiles).sort((left, right) => left - right);

/** Returns the traces of a forecast: the band between the outermost quantiles, and the point forecast. */
function fan(forecast, name, colour, opacity) {
  const [low, high] = [levels(forecast)[0], levels(forecast).at(-1)];
  const x = forecast.timestamps.map(date), edge = {x, mode: "lines", line: {width: 0}, hoverinfo: "skip", showlegend: false};
  return [
    {...edge, y: forecast.quantiles[low]}, {...edge, y: forecast.quantiles[high], fill: "tonexty", fillcolor: colour + opacity},
    {x, y: forecast.point, name, mode: "lines", line: {color: colour, width: opacity === "33" ? 2 : 1, dash: opacity === "33" ? "solid" : "dot"}},
  ];
}

/** Returns the readings in order of time, with a gap where the page has not seen some. */
function line(interval) {
  const timestamps = [...truths.keys()].sort((left, right) => left - right), points = [];
  timestamps.forEach((timestamp, place) => {
    if (place && timestamp - timestamps[place - 1] > 1.5 * interval) points.push([timestamp - interval, null]);
    points.push([timestamp, truths.get(timestamp)]);
  });
  return {x: points.map(([timestamp]) => date(timestamp)), y: points.map(([, value]) => value)};
}

async function showForecast() {
  if (!chosen.series || isTrainer) return;
  const asked = chosen.series, now = await ask("forecasts/" + encodeURIComponent(asked));
  if (asked !== chosen.series || now.interval_ms === null) return;
  latest = now;
  now.past_ms.forEach((timestamp, place) => truths.set(timestamp, now.past[place]));
  fans.set(now.timestamp, now);
  offerHorizons(now);
  await drawForecast();
}

async function drawForecast() {
  if (latest === null) return;
  const now = cut(latest, chosen.horizon), reach = latest.timestamps.at(-1) - latest.timestamp;
  for (const timestamp of truths.keys()) if (timestamp < now.timestamp - 3 * reach) truths.delete(timestamp);
  for (const made of fans.keys()) if (made < now.timestamp - reach) fans.delete(made);
  const shown = now.timestamps.at(-1) - now.timestamp, middle = now.timestamp - shown / 2;
  const earlier = [...fans.keys()].filter((made) => made < now.timestamp)
    .sort((left, right) => Math.abs(left - middle) - Math.abs(right - middle))[0];
  showSentence(now);
  await draw("fan", [
    ...(earlier === undefined ? [] : fan(cut(fans.get(earlier), chosen.horizon), "earlier forecast", "#8a6fb5", "1c")),
    ...fan(now, "forecast", "#1f6fb2", "33"),
    {...line(now.interval_ms), name: "readings (denoised)", mode: "lines", line: {color: "#1d2733", width: 1.5}},
  ], {
    uirevision: `${chosen.series} ${chosen.horizon}`,
    xaxis: {type: "date", range: [date(now.timestamp - 3 * shown), date(now.timestamps.at(-1))]},
  });
}

function showSentence(now) {
  const known = levels(now), last = now.past.at(-1), ticks = Math.round((now.timestamps.at(-1) - now.timestamp) / now.interval_ms);
  const [low, high] = [now.quantiles[known[0]].at(-1), now.quantiles[known.at(-1)].at(-1)];
  byId("latest").textContent = `${date(now.timestamp).replace("T", " ").slice(0, 16)} UTC: ${number(last)}; ` +
    `in ${ticks} ${ticks === 1 ? "tick" : "ticks"}: ${number(now.point.at(-1))}` +
    (known.length > 1 ? `, ${Math.round(100 * (known.at(-1) - known[0]))} % interval ${number(low)} … ${number(high)}` : "");
}

/** Offers three horizons: a quarter, a half and all of the forecast. */
function offerHorizons(now) {
  const ticks = now.timestamps.map((timestamp) => Math.round((timestamp - now.timestamp) / now.interval_ms)), count = ticks.length;
  const offered = [...new Set([count / 4, count / 2, count].map((place) => ticks[Math.max(0, Math.ceil(place) - 1)]))];
  if (!offered.includes(chosen.horizon)) chosen.horizon = offered.at(-1);
  const text = offered.join();
  if (byId("horizon").dataset.offered !== text) {
    byId("horizon").replaceChildren(...offered.map((tick) => new Option(`${tick} ${tick === 1 ? "tick" : "ticks"}`, tick)));
    byId("horizon").dataset.offered = text;
  }
  byId("horizon").value = chosen.horizon;
}

async function showWeights() {
  if (!chosen.series || isTrainer) return;
  const asked = chosen.series, now = await ask("series/" + encodeURIComponent(asked));
  if (asked !== chosen.series || !now.pending.length) return;
  const x = now.pending.map((pending) => "+" + pending.horizon);
  const bars = Object.keys(now.pending[0].weights).map((name, place) => ({
    x, y: now.pending.map((pending) => pending.weights[name]), name, type: "bar", marker: {color: COLOURS[place % COLOURS.length]},
  })).filter((bar) => bar.y.some((weight) => weight >= 0.005));
  const gate = {x, y: now.pending.map((pending) => pending.gate), name: "gate", mode: "lines+markers", line: {color: "#1d2733"}};
  await draw("weights", [...bars, gate], {
    barmode: "stack", legend: {orientation: "v", font: {size: 10}, y: 1.03, maxheight: 222}, hovermode: "closest",
    yaxis: {range: [0, 1.02], tickformat: ".0%"}, xaxis: {type: "category", tickangle: 0, title: {text: "ticks ahead", standoff: 4}},
  });
}

async function showModels() {
  if (isTrainer) return;
  const now = await ask("models"), loss = (value) => value === null ? "–" : value.toPrecision(4);
  rows("decisions", now.decisions.length ? now.decisions.slice(0, 8).map((decision) => [
    decision.at.replace("T", " ").slice(0, 16), decision.checkpoint, decision.work, loss(decision.challenger_loss),
    loss(decision.champion_loss), decision.checkpoint === now.champion ? "serving" : decision.promoted ? "promoted" : "rejected",
  ]) : [["no decision yet", "", "", "", "", ""]]);
}

async function showList() {
  if (isTrainer) return;
  const search = chosen.search, page = await ask(`series?limit=${LISTED}&search=${encodeURIComponent(search)}`);
  if (search !== chosen.search) return;
  const names = page.series, list = byId("names"), text = JSON.stringify(names);
  if (list.dataset.listed !== text) {
    const scroll = list.scrollTop;
    list.replaceChildren(...names.map((name) => new Option(shown(name), name)));
    list.dataset.listed = text;
    list.scrollTop = scroll;
  }
  if (list.value !== chosen.series) list.value = chosen.series;
  byId("matches").textContent = search ? `${integer(page.found)} found` : integer(page.found);
  if (!chosen.series) await chooseFirst();
}

/** Chooses the busiest series. */
async function chooseFirst() {
  const busiest = (await ask("series?limit=1&order=busiest")).series[0];
  if (!chosen.series && busiest !== undefined) choose(busiest);
}

function choose(name) {
  if (name !== chosen.series) {
    latest = null;
    fans = new Map();
    truths = new Map();
  }
  chosen.series = name;
  byId("names").value = name;
  byId("title").textContent = shown(name);
  save();
  attempt(showForecast);
  attempt(showWeights);
}

/** This worker does not have the series, or has lost it: chooses the busiest one instead, after a moment. */
function forget(task) {
  failures.delete(task);
  chosen.series = "";
  save();
  setTimeout(() => attempt(showList), FIRST_LIST_MS);
}

function decoded(hash) {
  try { return decodeURIComponent(hash); } catch { return ""; }
}

function begin() {
  history.scrollRestoration = "manual";
  byId("search").value = chosen.search;
  const fit = () => { byId("names").size = phone.matches ? 1 : 12; };
  fit();
  phone.addEventListener("change", fit);
  byId("search").addEventListener("input", () => { chosen.search = byId("search").value; save(); attempt(showList); });
  byId("names").addEventListener("change", () => choose(byId("names").value));
  byId("horizon").addEventListener("change", () => {
    chosen.horizon = Number(byId("horizon").value);
    save();
    attempt(drawForecast);
    attempt(showStatus);
  });
  addEventListener("hashchange", () => { const name = decoded(location.hash.slice(1)); if (name) choose(name); });
  addEventListener("pagehide", () => { chosen.scroll = scrollY; save(); });
  document.addEventListener("visibilitychange", () => failures.clear());
  const name = decoded(location.hash.slice(1)) || chosen.series;
  if (name) choose(name);
  loaded.then(() => scrollTo(0, chosen.scroll));
  every(showStatus, STATUS_MS);
  every(showList, () => chosen.series ? LIST_MS : FIRST_LIST_MS);
  every(showForecast, FORECAST_MS);
  every(showWeights, EXPLAIN_MS);
  every(showModels, MODELS_MS);
}

begin();
