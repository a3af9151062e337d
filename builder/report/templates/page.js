"use strict";
// The gallery of a report. Everything from outside is put in as text, never as markup.
(() => {
const config = JSON.parse(document.getElementById("config").textContent);
const $ = (id) => document.getElementById(id);
const state = { runs: [], rows: [], kept: [], charts: [], changes: [], drawn: new Map(), at: 0, held: null, salt: 1 };
const OVERSCAN = 3;

// ---- small tools ------------------------------------------------------------------------------------------------
function make(tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}
async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
const number = (value) => Number(value.toPrecision(3)).toString();
const address = (path) => `${path}?token=${encodeURIComponent(config.token)}`;

// ---- pictures: one strip an input, a window on it for each --------------------------------------------------------
let inline = null;
function stripOf(run, at) {
  if (config.live) return address(`strip/${run.rows[at].id}`);
  if (config.folder) {
    const id = run.rows[at].id, folder = encodeURIComponent(config.folder);
    return run.strips[at] === "1" ? `${folder}/${run.at}/${id.slice(0, 2)}/${id}.webp` : "";
  }
  if (inline === null) inline = $("strips").textContent.split("\n");
  const data = inline[run.offset + at];
  return data ? `data:image/webp;base64,${data}` : "";
}
function thumb(run, at, square, alt) {
  const node = make("div", "thumb");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", alt);
  const source = stripOf(run, at);
  if (source) {
    node.style.backgroundImage = `url("${source}")`;
    node.style.backgroundSize = "auto 100%";
    node.style.backgroundPosition = `calc(var(--side) * -${square}) 0`;
  }
  return node;
}

// ---- what a run says of two candidates ----------------------------------------------------------------------------
const better = (run, a, b) => {
  const [x, y] = [a.v[run.decides], b.v[run.decides]];
  if (x == null || y == null) return (x == null) - (y == null);
  return run.higher[run.decides] ? y - x : x - y;
};
const names = (run, one) => one.m.map((at) => run.models[at]).join(", ");
// In a narrow cell the beginning that all models share says nothing.
const brief = (run, one) => one.m.map((at) => run.models[at].slice(run.shared)).join(", ");
function sharedStart(models) {
  if (models.length < 2) return 0;
  let size = 0;
  while (models.every((name) => size < name.length && name[size] === models[0][size])) size++;
  return Math.max(models[0].lastIndexOf("-", size - 1), models[0].lastIndexOf("/", size - 1)) + 1;
}
function pairOf(row, a, b) {
  return row.p.find((p) => (p[0] === a && p[1] === b) || (p[0] === b && p[1] === a));
}
function explain(run, row, a, b) {
  const [x, y] = [row.c[a], row.c[b]];
  const pair = pairOf(row, a, b);
  if (pair) {
    const [chosen, rejected, margin, seeds, noise] = pair;
    const looks = seeds === 1 ? "1 seed, so its noise is not known"
      : seeds ? `${seeds} seeds, noise ${noise === null ? "not known" : number(noise)}` : "the seeds are not recorded";
    return `${brief(run, row.c[chosen])} is chosen over ${brief(run, row.c[rejected])}: closer by ${number(margin)}; ${looks}.`
      + witnesses(run, row.c[chosen], row.c[rejected]);
  }
  const both = `${brief(run, x)} and ${brief(run, y)} are no pair`;
  if (!run.finished) return `${both} yet: the build has not come to the pairs.`;
  const [u, v] = [x.v[run.decides], y.v[run.decides]];
  if (u == null || v == null) return `${both}: one of them has no score.`;
  const gap = Math.abs(u - v);
  if (gap < 1e-6) return `${both}: their scores are equal.`;
  if (gap < run.rule.min_margin) return `${both}: ${number(gap)} apart, which is below min_margin ${run.rule.min_margin}.`;
  const best = run.higher[run.decides] ? Math.max(u, v) : Math.min(u, v);
  const poor = run.rule.poor_chosen;
  if (poor !== null && (run.higher[run.decides] ? best < poor : best > poor))
    return `${both}: the better one, at ${number(best)}, is poorer than poor_chosen ${poor}.`;
  return `${both}: ${number(gap)} apart, which is within the noise of the backward model.`;
}
function witnesses(run, chosen, rejected) {
  const said = run.metrics.map((name, at) => [name, at]).filter(([, at]) => at !== run.decides).map(([name, at]) => {
    const [x, y] = [chosen.v[at], rejected.v[at]];
    if (x == null || y == null || x === y) return null;
    return `${name} ${(x > y) === run.higher[at] ? "agrees" : "disagrees"}`;
  }).filter(Boolean);
  if (chosen.w !== undefined && rejected.w !== undefined)
    said.push(chosen.w === rejected.w ? "the truth is tied" : `the truth ${chosen.w > rejected.w ? "agrees" : "disagrees"}`);
  const told = said.join("; ");
  return told ? ` ${told[0].toUpperCase()}${told.slice(1)}.` : "";
}
function disagrees(run, row, pair) {
  const [x, y] = [row.c[pair[0]], row.c[pair[1]]];
  if (x.w !== undefined && y.w !== undefined && x.w < y.w) return true;
  return run.metrics.some((_, at) => at !== run.decides && x.v[at] != null && y.v[at] != null && x.v[at] !== y.v[at]
    && (x.v[at] > y.v[at]) !== run.higher[at]);
}

// ---- filters ------------------------------------------------------------------------------------------------------
function prepare(data) {
  state.runs = data.runs;
  state.charts = data.charts;
  state.changes = data.changes || [];
  let offset = 0;
  state.runs.forEach((run, at) => {
    Object.assign(run, { at, offset, strips: (data.strips || [])[at] });
    offset += run.rows.length;
    run.shared = sharedStart(run.models);
    run.where = new Map(run.rows.map((row, place) => [row.id, place]));
  });
  const ids = [...new Set(state.runs.flatMap((run) => run.rows.map((row) => row.id)))];
  state.rows = ids.map((id) => {
    const mine = state.runs.map((run) => run.where.get(id));
    const parts = mine.map((place, at) => (place === undefined ? null : state.runs[at].rows[place]));
    const first = parts.find(Boolean);
    const pairs = parts.flatMap((row, at) => (row ? row.p.map((pair) => [state.runs[at], row, pair]) : []));
    const odd = pairs.filter(([run, row, pair]) => disagrees(run, row, pair)).length;
    return { id, mine, parts, name: first.n || "", category: first.g || "", split: first.s || "",
      margin: Math.max(-1, ...parts.map((row) => (row && row.p.length ? row.p[0][2] : -1))),
      odd: pairs.length ? odd / pairs.length : 0, clear: pairs.length > 0 && !disagrees(...pairs[0]),
      pairs: pairs.map((each) => each[2]), failed: parts.some((row) => row && row.f), changed: state.changes[id] || null };
  });
}
function searchable(row) {
  if (row.q === undefined) {
    const texts = row.parts.filter(Boolean).flatMap((part) => [part.t, ...part.c.flatMap((c) => [c.t, c.b])]);
    row.q = [row.name, row.category, ...texts].filter(Boolean).join("\n").toLowerCase();
  }
  return row.q;
}
function hash(text) {
  let value = state.salt;
  for (let at = 0; at < text.length; at++) value = Math.imul(value ^ text.charCodeAt(at), 2654435761) >>> 0;
  return value;
}
const ORDERS = {
  margin: (a, b) => b.margin - a.margin, close: (a, b) => (a.margin < 0) - (b.margin < 0) || a.margin - b.margin,
  disagreement: (a, b) => b.odd - a.odd || b.margin - a.margin, random: (a, b) => hash(a.id) - hash(b.id),
  name: (a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1),
};
function apply() {
  const text = $("f-text").value.trim().toLowerCase(), model = $("f-model").value, split = $("f-split").value;
  const category = $("f-category").value, witness = $("f-witness").value, failed = $("f-failed").checked;
  const low = $("f-low").value === "" ? null : Number($("f-low").value);
  const high = $("f-high").value === "" ? null : Number($("f-high").value);
  const paired = $("f-paired").checked, change = $("f-change") ? $("f-change").value : "";
  const has = (row) => row.parts.some((part, at) => part && part.c.some((c) => c.m.some((m) => state.runs[at].models[m] === model)));
  state.kept = state.rows.filter((row) => (!split || row.split === split) && (!category || row.category === category)
    && (!failed || row.failed) && (!paired || row.pairs.length) && (!model || has(row))
    && (low === null && high === null || row.pairs.some((p) => (low === null || p[2] >= low) && (high === null || p[2] <= high)))
    && (witness !== "agree" || row.clear) && (witness !== "disagree" || row.odd > 0)
    && (change !== "changed" || row.changed) && (change !== "same" || !row.changed)
    && (!text || searchable(row).includes(text)));
  state.kept.sort(ORDERS[$("f-order").value]);
  state.at = 0;
  const [shown, all] = [state.kept.length.toLocaleString("en"), state.rows.length.toLocaleString("en")];
  $("count").textContent = shown === all ? `${all} inputs` : `${shown} of ${all} inputs`;
  redraw();
}
function fill(select, values) {
  for (const value of [...new Set(values)].filter(Boolean).sort()) select.append(new Option(value, value));
  select.closest("label").hidden = select.options.length < 2;
}

// ---- cards: only those near the window exist ------------------------------------------------------------------------
const height = () => parseFloat(getComputedStyle(document.body).getPropertyValue("--card"));
function redraw() {
  for (const node of state.drawn.values()) node.remove();
  state.drawn.clear();
  $("cards").style.height = `${state.kept.length * height()}px`;
  draw();
}
let waiting = false;
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}
function draw() {
  const tall = height(), top = -$("cards").getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / tall) - OVERSCAN);
  const last = Math.min(state.kept.length - 1, Math.ceil((top + innerHeight) / tall) + OVERSCAN);
  for (const [at, node] of state.drawn) {
    if ((at < first || at > last) && !node.contains(document.activeElement)) { node.remove(); state.drawn.delete(at); }
  }
  for (let at = first; at <= last; at++) {
    if (!state.drawn.has(at)) {
      const node = card(at);
      node.style.top = `${at * tall}px`;
      const after = [...state.drawn.keys()].filter((other) => other > at).sort((a, b) => a - b)[0];
      $("cards").insertBefore(node, after === undefined ? null : state.drawn.get(after));
      state.drawn.set(at, node);
    }
  }
}
function card(at) {
  const row = state.kept[at], node = make("div", "card");
  node.setAttribute("role", "listitem");
  node.setAttribute("aria-setsize", state.kept.length);
  node.setAttribute("aria-posinset", at + 1);
  node.tabIndex = 0;
  node.dataset.at = at;
  node.append(inputOf(row));
  const made = make("div", "made");
  state.runs.forEach((run, which) => {
    if (state.runs.length > 1) made.append(make("div", "run", `${"AB"[which]}  ${run.label}`));
    if (row.parts[which]) made.append(...strip(run, row.mine[which]));
    else made.append(make("div", "cells faint", "this run does not have the input"));
  });
  node.append(made);
  node.addEventListener("focusin", () => { state.at = at; });
  return node;
}
function inputOf(row) {
  const which = row.parts.findIndex(Boolean), run = state.runs[which], part = row.parts[which];
  const node = make("div", "what");
  if (run.input === "image") node.append(thumb(run, row.mine[which], 0, `input ${row.name}`));
  else node.append(make("bdi", "text", part.t));
  if (row.name !== part.t) node.append(make("bdi", "name", row.name));
  const tags = [row.split, row.category, row.failed ? "has failures" : ""].filter(Boolean).join(" · ");
  if (tags) node.append(make("bdi", "faint", tags));
  if (row.changed) node.append(make("span", "faint", `${row.changed.length} labels changed`));
  const more = make("button", "", "Details");
  more.type = "button";
  more.setAttribute("aria-label", `Details of ${row.name || row.id}`);
  more.addEventListener("click", () => details(row));
  node.append(more);
  return node;
}
function strip(run, at) {
  const row = run.rows[at], cells = make("div", "cells"), said = make("div", "said");
  cells.tabIndex = 0;
  cells.setAttribute("role", "group");
  cells.setAttribute("aria-label", "Candidates from best to worst");
  said.setAttribute("aria-live", "polite");
  const widest = row.p[0];
  let held = null;
  const say = (place) => {
    const other = held !== null && held !== place ? held : !widest ? null : place === widest[0] ? widest[1] : widest[0];
    said.textContent = other === null ? (row.c.length > 1 ? "No pair was made of these candidates." : "") : explain(run, row, other, place);
  };
  const order = row.c.map((_, place) => place).sort((a, b) => better(run, row.c[a], row.c[b]) || a - b);
  for (const place of order) {
    const cell = cellOf(run, at, place, widest);
    cell.addEventListener("pointerenter", () => say(place));
    cell.addEventListener("focus", () => say(place));
    cell.addEventListener("click", () => {
      held = held === place ? null : place;
      for (const each of cells.children) {
        each.classList.toggle("held", each === cell && held !== null);
        if (each.matches("button")) each.setAttribute("aria-pressed", String(each === cell && held !== null));
      }
    });
    cells.append(cell);
  }
  if (!order.length) cells.append(make("span", "faint", row.f ? row.f.map((f) => f.join(": ")).join("; ") : "no candidate yet"));
  if (widest) say(widest[1]);
  else if (row.f) said.textContent = `Failed: ${row.f.map((f) => f.join(": ")).join("; ")}`;
  else if (row.c.length > 1) said.textContent = run.finished ? explain(run, row, order[0], order[order.length - 1]) : "";
  return [cells, said];
}
function cellOf(run, at, place, widest) {
  const row = run.rows[at], one = row.c[place], cell = make("button", "cell");
  cell.type = "button";
  cell.setAttribute("aria-pressed", "false");
  const role = widest && place === widest[0] ? "chosen" : widest && place === widest[1] ? "rejected" : "";
  if (role) cell.classList.add(role);
  const label = make("bdi", "model", brief(run, one));
  label.title = names(run, one);
  cell.append(label);
  const square = place + (run.input === "image" ? 1 : 0);
  const of = run.candidate === "image" ? `candidate of ${names(run, one)}` : `reconstruction from ${names(run, one)}`;
  const text = make("bdi", "text", run.candidate === "text" ? one.t : one.b || "");
  const picture = thumb(run, at, square, of);
  cell.append(...(run.candidate === "text" ? [text, picture] : [picture, text]));
  const value = one.v[run.decides], score = make("span", "score", value == null ? "no score" : number(value));
  if (role) score.append(" ", make("span", "mark", role));
  if (one.x) score.append(" ", make("span", "faint", "cut"));
  cell.append(score);
  const others = run.metrics.map((name, m) => (m === run.decides || one.v[m] == null ? null : `${name} ${number(one.v[m])}`)).filter(Boolean);
  if (one.w !== undefined) others.push(`truth ${number(one.w)}`);
  if (others.length) cell.append(make("bdi", "others", others.join(" · ")));
  return cell;
}

// ---- all of one input -----------------------------------------------------------------------------------------------
function details(row) {
  const box = $("details");
  box.replaceChildren();
  const close = make("button", "", "Close");
  close.addEventListener("click", () => box.close());
  box.append(close, make("h2", "", row.name || row.id), make("p", "faint", `${row.id}${row.split ? ` · ${row.split}` : ""}`));
  state.runs.forEach((run, which) => {
    const part = row.parts[which];
    if (!part) return;
    if (state.runs.length > 1) box.append(make("h3", "", `${"AB"[which]}  ${run.label}`));
    if (run.input === "image") box.append(thumb(run, row.mine[which], 0, `input ${row.name}`));
    else if (part.t !== row.name) box.append(make("p", "text", part.t));
    const order = part.c.map((_, place) => place).sort((a, b) => better(run, part.c[a], part.c[b]) || a - b);
    for (const place of order) {
      const one = part.c[place], item = make("div", "pair");
      item.append(make("strong", "", names(run, one)));
      if (one.t) item.append(make("bdi", "text", one.t));
      item.append(thumb(run, row.mine[which], place + (run.input === "image" ? 1 : 0), "picture"));
      if (one.b) item.append(make("bdi", "text faint", one.b));
      const scores = run.metrics.map((name, m) => (one.v[m] == null ? null : `${name} ${number(one.v[m])}`)).filter(Boolean);
      if (one.w !== undefined) scores.push(`truth ${number(one.w)}`);
      item.append(make("small", "", `${scores.join(" · ")}${one.n ? ` · ${one.n} reconstructions` : ""}${one.x ? " · cut at a token limit" : ""}`));
      box.append(item);
    }
    for (const failure of part.f || []) box.append(make("p", "notice", failure.join(": ")));
    const list = make("details");
    list.append(make("summary", "", `${part.p.length} pairs`));
    for (const pair of part.p) list.append(make("p", "", explain(run, part, pair[0], pair[1])));
    box.append(list);
  });
  for (const sentence of row.changed || []) box.append(make("p", "", sentence));
  box.showModal();
}

// ---- pictures -------------------------------------------------------------------------------------------------------
function colours() {
  const of = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { gridcolor: of("--line"), zerolinecolor: of("--line"), linecolor: of("--line") };
  return { ink: of("--ink"), axis };
}
function themed(layout) {
  const { ink, axis } = colours(), made = { ...layout, font: { ...layout.font, color: ink } };
  for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) made[name] = { ...axis, ...layout[name] };
  return made;
}
function plotAll() {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      seen.unobserve(entry.target);
      const chart = state.charts.find((each) => `chart-${each.id}` === entry.target.id);
      Plotly.newPlot(entry.target, chart.data, themed(chart.layout), { displayModeBar: false, responsive: true });
    }
  }, { rootMargin: "600px" });
  for (const chart of state.charts) if ($(`chart-${chart.id}`)) seen.observe($(`chart-${chart.id}`));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of state.charts) {
      const node = $(`chart-${chart.id}`);
      if (node && node.data) Plotly.react(node, chart.data, themed(chart.layout), { displayModeBar: false, responsive: true });
    }
  });
}

// ---- keys -----------------------------------------------------------------------------------------------------------
function go(at) {
  if (!state.kept.length) return;
  state.at = Math.max(0, Math.min(state.kept.length - 1, at));
  const top = $("cards").getBoundingClientRect().top + scrollY + state.at * height();
  scrollTo({ top: top - 56, behavior: "instant" });
  draw();
  state.drawn.get(state.at).focus({ preventScroll: true });
}
function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("details").open) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const inside = document.activeElement && document.activeElement.closest(".card");
  if (event.key === "j") go(inside ? state.at + 1 : state.at);
  else if (event.key === "k") go(state.at - 1);
  else if (event.key === "/") { $("f-text").focus(); event.preventDefault(); }
  else if (event.key === "d" && state.kept.length) details(state.kept[state.at]);
  else if (event.key === "r") { state.salt = 1 + Math.floor(Math.random() * 2 ** 31); $("f-order").value = "random"; apply(); }
  else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && event.target.matches(".cell")) {
    const next = event.key === "ArrowRight" ? event.target.nextElementSibling : event.target.previousElementSibling;
    if (next) { next.focus(); event.preventDefault(); }
  }
}

async function start() {
  let packed = $("data").textContent;
  if (config.live) packed = await (await fetch(address("data"), { cache: "no-store" })).text();
  prepare(await unpack(packed));
  if ($("cards")) {
    fill($("f-model"), state.runs.flatMap((run) => run.models));
    fill($("f-split"), state.rows.map((row) => row.split));
    fill($("f-category"), state.rows.map((row) => row.category));
    const several = state.runs.some((run) => run.metrics.length > 1 || run.rows.some((row) => row.c.some((c) => c.w !== undefined)));
    $("f-witness").closest("label").hidden = !several;
    let timer = 0;
    $("filters").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
    $("filters").addEventListener("reset", () => setTimeout(apply, 0));
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", redraw);
    addEventListener("keydown", keys);
    apply();
  }
  plotAll();
  document.body.dataset.ready = "true";
}
start().catch((error) => {
  const node = $("count") || $("run");
  node.textContent = `This page could not read its data: ${error.message}`;
  throw error;
});
})();
