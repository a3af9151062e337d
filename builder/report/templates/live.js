"use strict";
// News of a build, every few seconds.
(() => {
const config = JSON.parse(document.getElementById("config").textContent);
const $ = (id) => document.getElementById(id);
const address = (path) => `${path}?token=${encodeURIComponent(config.token)}`;
const EVERY = 4000;
let before = null, seen = "";
function make(tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}
const moment = (text) => text.replace("T", " ").replace("+00:00", " UTC");
function stages(news) {
  const table = make("table"), head = make("tr");
  for (const name of ["stage", "", "wanted", "ok", "failed", "left", "rows/s", "time left"])
    head.append(make("th", name && name !== "stage" ? "number" : "", name || "done"));
  table.append(head);
  for (const each of news.stages) {
    const row = make("tr"), bar = make("div", "bar"), fill = make("i");
    fill.style.width = `${each.wanted ? (100 * (each.ok + each.failed)) / each.wanted : 0}%`;
    bar.append(fill);
    const cell = make("td");
    cell.append(bar);
    row.append(make("td", "", each.stage), cell);
    for (const name of ["wanted", "ok", "failed", "left"]) row.append(make("td", "number", each[name].toLocaleString("en")));
    row.append(make("td", "number", each.rate === null ? "" : each.rate.toLocaleString("en", { maximumFractionDigits: 1 })));
    const left = each.seconds_left;
    row.append(make("td", "number", left === null ? "" : left < 120 ? `${Math.round(left)} s` : `${Math.round(left / 60)} min`));
    table.append(row);
  }
  $("live-stages").replaceChildren(table);
}
function latest(news) {
  const now = JSON.stringify(news.latest);
  if (now === seen) return;
  seen = now;
  $("live-latest").replaceChildren(...news.latest.map((each) => {
    const box = make("div");
    box.append(make("bdi", "faint", each.model));
    if (each.picture) {
      const image = make("img");
      image.alt = `made by ${each.model}`;
      image.src = address(each.picture);
      box.append(image);
    } else box.append(make("p", "text", each.text));
    return box;
  }));
}
async function look() {
  try {
    const news = await (await fetch(address("news"), { cache: "no-store" })).json();
    stages(news);
    latest(news);
    for (const node of document.querySelectorAll(".state")) node.textContent = news.state;
    const failed = news.failed ? `; ${news.failed.toLocaleString("en")} rows failed` : "";
    $("live-state").textContent = `${news.state}${news.error ? `: ${news.error}` : ""}${failed}. Last change ${news.updated ? moment(news.updated) : "not known"}.`;
    if (before === "running" && news.state !== "running") {
      const again = make("button", "", "Show what was made");
      again.addEventListener("click", () => location.reload());
      $("live-state").append(" ", again);
    }
    before = news.state;
  } catch (error) {
    $("live-state").textContent = `The command no longer answers (${error.message}).`;
  }
  setTimeout(look, EVERY);
}
look();
})();
