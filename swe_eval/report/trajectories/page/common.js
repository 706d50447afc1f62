// Whatever a model wrote is put into the page as text, never as HTML.
"use strict";

const DATA = "trajectories.data/";
const KEPT = 12; // instances in memory
const LINES = 12; // of an output that are shown before it is unfolded
const SIGNS = { resolved: "✓", unresolved: "✗", empty_patch: "∅", infra: "!" };
const WORDS = { resolved: "resolved", unresolved: "unresolved", empty_patch: "empty patch", infra: "infra: owed" };
const FILTERS = {
  all: ["all", () => true],
  a: ["only A resolved", (a, b) => won(a) && !won(b)],
  b: ["only B resolved", (a, b) => won(b) && !won(a)],
  both: ["both", (a, b) => won(a) && won(b)],
  neither: ["neither", (a, b) => !won(a) && !won(b)],
  flagged: ["flagged", (a, b) => a?.flags.length > 0 || b?.flags.length > 0],
  owed: ["owed", (a, b) => a?.outcome === "infra" || b?.outcome === "infra"],
};

const $ = (id) => document.getElementById(id);
const loaded = new Map(); // id -> instance, the most recently used last
const waiting = new Map(); // id -> what to do when it is there
let index = null;
let shown = []; // the instances that pass search and filter
let current = null; // instance_id
let filter = "all";
let unfolded = false;

const won = (trial) => trial?.outcome === "resolved";

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function seconds(s) {
  return s < 60 ? `${s.toFixed(1)} s` : s < 3600 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}
