// trajectories.data/index.js has a line per instance, trajectories.data/<id>.js one instance in full; both are scripts,
// because a page that is opened as a file may not fetch.

function load(name, failed) {
  const script = make("script", { src: DATA + encodeURIComponent(name) + ".js" });
  script.onload = () => script.remove();
  script.onerror = () => {
    script.remove();
    failed();
  };
  document.head.append(script);
}

function withInstance(id, then) {
  if (loaded.has(id)) return then(keep(id, loaded.get(id)));
  const asked = waiting.has(id);
  waiting.set(id, then);
  if (asked) return undefined;
  return load(id, () => {
    waiting.delete(id);
    if (id === current)
      say(`The data of ${id} is not there: it is made by python -m swe_eval.report RUN --trajectories.`);
  });
}

function ahead(id) {
  if (!loaded.has(id) && !waiting.has(id)) withInstance(id, () => {});
}

function keep(id, instance) {
  loaded.delete(id);
  loaded.set(id, instance);
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  return instance;
}

window.trajectories = {
  index(found) {
    index = found;
    $("run").replaceChildren(
      found.report ? make("a", { href: found.report, title: "the report" }, found.run) : found.run,
    );
    document.title = `${found.run}: trajectories`;
    for (const id of ["a", "b"]) $(id).replaceChildren(...found.arms.map((arm) => make("option", { value: arm }, arm)));
    [$("a").value, $("b").value] = found.pair;
    follow();
  },
  instance(found) {
    const then = waiting.get(found.instance_id);
    waiting.delete(found.instance_id);
    keep(found.instance_id, found);
    then?.(found);
  },
};

function say(text) {
  $("instance").replaceChildren(make("p", { className: "hint" }, text));
}
