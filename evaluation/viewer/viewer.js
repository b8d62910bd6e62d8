"use strict";
// The trajectory viewer. Data come embedded in the page or, when the page is served, from /data, /new and /picture/.
// Whatever a model wrote is put into the page as text, never as HTML.
(() => {
  const ROW_PX = 26, SMALL_PX = 120, LARGE_PX = 480, MAX_SEARCHED = 5000, MAX_SHOWN = 20000, COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080"];
  const byId = (id) => document.getElementById(id);
  const isLive = document.body.dataset.live === "1";
  let data = null, shown = [], chosen = -1, index = new Map(), following = isLive;

  const element = (name, options = {}, ...children) => {
    const made = Object.assign(document.createElement(name), options);
    made.append(...children.filter((child) => child !== null));
    return made;
  };
  const setName = (number) => `${data.sets[number].run} / ${data.sets[number].name}`;
  const key = (set, episode) => `${set}\n${episode.task}\n${episode.step ?? ""}\n${episode.sample ?? ""}`;
  const task = (episode) => data.tasks[episode.task];
  const isRight = (episode) => value(episode, "accuracy") === 1;
  // A number of an episode: a reward part, the whole score, or what it was paid in all.
  const value = (episode, name) => episode.rewards?.[name] ?? (name === "accuracy" ? episode.score : undefined);
  const total = (episode) => episode.reward ?? episode.score;
  const carriedLoss = (episode) => episode.in_loss === true && typeof episode.advantage === "number";
  const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  const cut = (text, length) => text.length <= length ? text : `${text.slice(0, length)}… (${text.length - length} more characters)`;

  // ---- pictures: each is decoded once, when it is first shown
  const pictures = new Map();
  const picture = (name) => {
    if (!pictures.has(name)) {
      const image = new Image();
      const stored = isLive ? null : byId(`picture-${name}`);
      image.src = isLive ? `/picture/${name}` : `data:image/webp;base64,${stored ? stored.textContent.trim() : ""}`;
      pictures.set(name, image.decode().then(() => image));
    }
    return pictures.get(name);
  };
  const whenDrawn = (canvas, name, draw) => {
    if (name === null || name === undefined) return;
    picture(name).then((image) => { draw(canvas.getContext("2d"), image); canvas.className = "drawn"; }, () => { canvas.title = "this picture cannot be opened"; });
  };

  // ---- which episodes are listed
  const controls = ["set", "other", "outcome", "family", "fault", "text", "low", "high", "order"];
  const setting = (name) => byId(name).value;
  const prepare = (from) => {
    for (let number = from; number < data.episodes.length; number++) {
      const episode = data.episodes[number];
      index.set(key(episode.set, episode), episode);
      episode.number = number;
      episode.words = [task(episode).id, task(episode).question, task(episode).reference, episode.answer ?? "",
        ...episode.turns.map((turn) => turn.text)].map((part) => part.slice(0, MAX_SEARCHED)).join("\n").toLowerCase();
    }
  };
  const partner = (episode) => setting("other") === "" ? undefined : index.get(key(Number(setting("other")), episode));
  const OUTCOMES = {
    all: () => true,
    right: isRight,
    wrong: (episode) => !isRight(episode),
    gained: (episode) => { const other = partner(episode); return other !== undefined && !isRight(episode) && isRight(other); },
    lost: (episode) => { const other = partner(episode); return other !== undefined && isRight(episode) && !isRight(other); },
  };
  const ORDERS = {
    played: (a, b) => a.number - b.number,
    reward: (a, b) => total(b) - total(a),
    advantage: (a, b) => (b.advantage ?? 0) - (a.advantage ?? 0),
    zooms: (a, b) => b.num_zooms - a.num_zooms,
    tokens: (a, b) => b.num_tokens - a.num_tokens,
  };
  const filter = (keep) => {
    const set = Number(setting("set")), family = setting("family"), fault = setting("fault");
    const words = setting("text").toLowerCase(), outcome = OUTCOMES[setting("outcome")];
    const low = setting("low") === "" ? -Infinity : Number(setting("low"));
    const high = setting("high") === "" ? Infinity : Number(setting("high"));
    shown = data.episodes.filter((episode) =>
      episode.set === set && (family === "" || task(episode).family === family)
      && (fault === "" || (fault === "none" ? Object.keys(episode.faults ?? {}).length === 0
        : fault === "any" ? Object.keys(episode.faults ?? {}).length > 0
        : fault === "unanswered" ? episode.answer === undefined : (episode.faults ?? {})[fault] > 0))
      && (low === -Infinity && high === Infinity || total(episode) >= low && total(episode) <= high)
      && (words === "" || episode.words.includes(words)) && outcome(episode));
    if (setting("order") !== "played") shown.sort(ORDERS[setting("order")]);
    const right = shown.filter(isRight).length;
    const sampled = data.sets[set]?.sampled;
    byId("number").textContent = `${counted(shown.length, "episode")}, ${right} right${sampled ? `, of ${sampled[0]} questions drawn at random from ${sampled[1]}` : ""}`;
    const place = keep === undefined ? 0 : shown.indexOf(keep);
    if (keep === undefined) byId("list").scrollTop = 0;
    choose(place < 0 ? 0 : place, keep === undefined);
  };

  // ---- the list: only rows in sight exist
  // Images that stand before the question are shown under their numbers below it.
  const bare = (question) => question.replace(/^(?:\s*(?:Image \d+:)?\s*\ufffc\s*)+/, "").replaceAll("\ufffc", "[image]");
  const drawList = () => {
    const list = byId("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - 5);
    const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW_PX) + 10);
    const rows = byId("rows");
    rows.style.height = `${shown.length * ROW_PX}px`;
    rows.replaceChildren(...shown.slice(first, last).map((episode, offset) => {
      const place = first + offset, mark = value(episode, "accuracy");
      const dot = element("span", { className: `dot ${mark === undefined ? "" : mark === 1 ? "good" : "bad"}` });
      const where = episode.step === undefined ? "" : `step ${episode.step} · `;
      const said = episode.answer === undefined ? episode.stop_reason : `“${episode.answer.slice(0, 60)}” (${task(episode).reference.slice(0, 60)})`;
      const row = element("div", { className: `row${place === chosen ? " chosen" : ""}`, title: `${task(episode).id}: ${task(episode).question}` }, dot,
        `${where}${said} · ${counted(episode.num_zooms, "zoom")} · ${bare(task(episode).question).slice(0, 120)}`);
      row.style.top = `${place * ROW_PX}px`;
      row.onclick = () => { following = false; choose(place); };
      return row;
    }));
  };
  const choose = (place, isQuiet) => {
    chosen = Math.max(0, Math.min(place, shown.length - 1));
    const list = byId("list"), top = chosen * ROW_PX;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
    drawList();
    drawDetail();
    const episode = shown[chosen];
    if (episode && !isQuiet) history.replaceState(null, "", `#${episode.set}/${encodeURIComponent(task(episode).id)}/${episode.step ?? ""}/${episode.sample ?? ""}`);
  };

  // ---- one episode, or two side by side
  const drawDetail = () => {
    const episode = shown[chosen], detail = byId("detail");
    if (!episode) { detail.replaceChildren(element("p", { className: "quiet", textContent: "No episode fits these filters." })); return; }
    const asked = task(episode), other = partner(episode);
    detail.replaceChildren(
      element("div", { className: "quiet", textContent: `${asked.id} · ${asked.family} · ${asked.kind}` }),
      element("div", { className: "question", textContent: bare(asked.question) }),
      element("div", {}, element("span", { className: "chip", textContent: `right answer: ${asked.reference}` })),
      element("div", { className: "columns" }, drawEpisode(episode), other ? drawEpisode(other) : null));
    detail.scrollTop = 0;
  };
  const chip = (text, kind = "") => element("span", { className: `chip ${kind}`, textContent: text });
  const drawEpisode = (episode) => {
    const set = data.sets[episode.set], mark = value(episode, "accuracy");
    const chips = element("div", {},
      chip(episode.answer === undefined ? `no answer: ${episode.stop_reason}` : `answered “${cut(episode.answer, 500)}”`, mark === 1 ? "good" : "bad"),
      chip(counted(episode.num_zooms, "zoom")), chip(counted(episode.num_tokens, "token")),
      episode.mode === "eval" ? chip("held out: not trained on") : null,
      episode.reward === undefined ? null : chip(`paid ${episode.reward.toFixed(2)}`),
      !carriedLoss(episode) ? null : chip(`advantage ${episode.advantage.toFixed(2)}`, episode.advantage > 0 ? "good" : episode.advantage < 0 ? "bad" : ""),
      set.crops === "true" ? null : chip(`the model saw ${set.crops} for crops`, "warn"),
      set.views === "true" ? null : chip(`first view ${set.views}`, "warn"));
    const parts = Object.entries({ ...(episode.score === undefined ? {} : { accuracy: episode.score }), ...episode.rewards, ...prefixed(episode.scores) });
    const rewards = element("div", {}, ...parts.map(([name, paid]) => {
      const made = chip(`${name} ${paid === null ? "does not apply" : Number(paid).toFixed(2)}`);
      made.title = reason(name, paid, episode);
      return made;
    }));
    const reasons = element("div", { className: "quiet", textContent: parts.map(([name, paid]) => reason(name, paid, episode)).filter(Boolean).join("; ") });
    return element("div", { className: "episode" }, element("h3", { textContent: setName(episode.set) + (episode.step === undefined ? "" : `, step ${episode.step}`) }),
      chips, rewards, reasons, drawPictures(episode), legend(episode), ...episode.turns.map((turn, number) => drawTurn(episode, turn, number)));
  };
  const prefixed = (scores) => Object.fromEntries(Object.entries(scores ?? {}).map(([name, paid]) => [`by ${name}`, paid]));
  const reason = (name, paid, episode) => {
    if (name === "accuracy") return episode.why !== undefined ? cut(episode.why, 500) : (episode.answer === undefined ? `no answer: ${episode.stop_reason}` : `${task(episode).kind}: “${cut(episode.answer, 500)}” against “${task(episode).reference}”`);
    if (name === "format") {
      const bad = episode.turns.flatMap((turn, number) => turn.malformed ? [number + 1] : []);
      return bad.length ? `format broken in turn ${bad.join(", ")}` : episode.answer === undefined ? "no answer" : "every turn in the format";
    }
    return "";
  };
  const frame = (context, image, box, colour, dash, text) => {
    const [width, height] = [context.canvas.width, context.canvas.height];
    const [x1, y1, x2, y2] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    context.lineWidth = 2;
    const stroke = (pattern, style) => { context.setLineDash(pattern); context.strokeStyle = style; context.strokeRect(x1, y1, x2 - x1, y2 - y1); };
    if (dash.length) stroke([], "#000");  // dashes of one colour would vanish on a picture of that colour
    stroke(dash, colour);
    if (text) { context.font = "bold 13px sans-serif"; context.fillStyle = colour; context.fillText(text, x1 + 3, y1 > 15 ? y1 - 4 : y1 + 14); }
  };
  // All images of the task; under each, where any was focused, in which turns it was.
  const drawPictures = (episode) => element("div", { className: "pictures" }, ...task(episode).images.map((name, number) => {
    const canvas = element("canvas", { width: 320, height: 40 });
    const turns = episode.turns.flatMap((turn, at) => (turn.foci ?? []).some((images) => images.includes(number)) ? [at] : []);
    if (turns.length) canvas.style.borderColor = COLOURS[turns[0] % COLOURS.length];
    whenDrawn(canvas, name, (context, image) => {
      const scale = Math.min(1, (task(episode).images.length > 3 ? 150 : 440) / image.width);
      canvas.width = image.width * scale; canvas.height = image.height * scale;
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      task(episode).targets.filter((target) => target.image === number).forEach((target) => frame(context, image, target.box, "#fff", [5, 4]));
      (episode.boxes ?? []).filter((box) => box.image === number).forEach((box) => frame(context, image, box.box, "#0c0", [], "answer"));
      episode.turns.forEach((turn, at) => turn.crops.filter((crop) => crop.image === number)
        .forEach((crop) => frame(context, image, crop.box, COLOURS[at % COLOURS.length], [], String(at + 1))));
    });
    if (!episode.turns.some((turn) => turn.foci?.length)) return canvas;
    const words = turns.length ? `image ${number}: turn ${turns.map((at) => at + 1).join(", ")}` : `image ${number}`;
    return element("figure", { className: turns.length ? "focused" : "" }, canvas, element("figcaption", { textContent: words }));
  }));
  const legend = (episode) => {
    const asked = task(episode), words = [
      asked.targets.length ? "dashed: the task's own boxes" : "", episode.turns.some((turn) => turn.crops.length) ? "numbered: where a turn zoomed" : "",
      episode.boxes?.length ? "green: the answer" : ""].filter(Boolean);
    return words.length ? element("div", { className: "quiet legend", textContent: words.join(" · ") }) : null;
  };
  const drawTurn = (episode, turn, number) => {
    const colour = COLOURS[number % COLOURS.length];
    const head = element("div", { className: "head" }, `turn ${number + 1} · ${counted(turn.tokens, "token")} · ${turn.action}`,
      turn.malformed ? " · not in the format" : "", turn.fault ? ` · fault: ${turn.fault}` : "");
    const text = element("pre", { className: carriedLoss(episode) ? "loss" : "", textContent: cut(turn.text, MAX_SHOWN) });
    text.title = carriedLoss(episode) ? `carried loss, advantage ${episode.advantage.toFixed(3)}` : "carried no loss";
    const whole = (turn.foci ?? []).flat().map((image) => ({ index: image, image, box: [0, 0, 1, 1] }));
    const crops = element("div", { className: "pictures" }, ...[...whole, ...turn.crops].map((crop) => {
      const canvas = element("canvas", { width: SMALL_PX, height: SMALL_PX });
      canvas.style.borderColor = colour;
      canvas.title = `image ${crop.index} of the episode${crop.size ? `, ${crop.size[0]} x ${crop.size[1]} pixels` : ""}`;
      whenDrawn(canvas, crop.picture ?? task(episode).images[crop.image], (context, image) => {
        const box = crop.picture ? [0, 0, 1, 1] : crop.box;
        const [x, y] = [box[0] * image.width, box[1] * image.height];
        const [width, height] = [Math.max(1, (box[2] - box[0]) * image.width), Math.max(1, (box[3] - box[1]) * image.height)];
        // As many pixels as the model got. A small crop is shown enlarged, pixel by pixel.
        [canvas.width, canvas.height] = crop.size ?? [width, height];
        const longer = Math.max(canvas.width, canvas.height), scale = Math.min(LARGE_PX, Math.max(SMALL_PX, longer)) / longer;
        canvas.style.width = `${canvas.width * scale}px`;
        if (scale > 1) canvas.style.imageRendering = "pixelated";
        context.imageSmoothingQuality = "high";
        context.drawImage(image, x, y, width, height, 0, 0, canvas.width, canvas.height);
      });
      return canvas;
    }));
    const seen = turn.observation ? element("pre", { className: "seen", textContent: cut(turn.observation, MAX_SHOWN), title: "shown to the model: never carries loss" }) : null;
    return element("div", { className: "turn" }, head, text, crops, seen);
  };

  // ---- controls, keyboard, start
  const fill = (id, entries) => {
    const kept = byId(id).value;
    byId(id).replaceChildren(...entries.map(([name, text]) => element("option", { value: name, textContent: text })));
    if (entries.some(([name]) => String(name) === kept)) byId(id).value = kept;
  };
  const fillControls = () => {
    const sets = data.sets.map((_, number) => [number, setName(number)]);
    fill("set", sets);
    fill("other", [["", "nothing"], ...sets]);
    fill("family", [["", "all"], ...[...new Set(Object.values(data.tasks).map((one) => one.family))].sort().map((name) => [name, name])]);
    fill("fault", [["", "with or without"], ["none", "none"], ["any", "any"], ["unanswered", "no answer"], ...data.faults.map((name) => [name, name])]);
  };
  const KEYS = {
    j: () => choose(chosen + 1), k: () => choose(chosen - 1), ArrowDown: () => choose(chosen + 1), ArrowUp: () => choose(chosen - 1),
    PageDown: () => choose(chosen + 20), PageUp: () => choose(chosen - 20), Home: () => choose(0), End: () => choose(shown.length - 1),
    "?": () => byId("keys").showModal(), "/": () => byId("text").focus(), f: () => { following = isLive; },
    c: () => { const other = byId("other"); other.selectedIndex = (other.selectedIndex + 1) % other.options.length; filter(shown[chosen]); },
  };
  const isTyping = (target) => target.matches("input, select");
  document.addEventListener("keydown", (event) => {
    if (data === null || byId("keys").open) return;
    if (event.key === "Escape") { document.activeElement.blur(); return; }
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    if (!byId("list").matches(":hover, :focus") && ["Home", "End", "PageUp", "PageDown"].includes(event.key) && window.scrollY < byId("viewer").offsetTop - 5) return;
    event.preventDefault();
    if (event.key !== "f") following = false;
    KEYS[event.key]();
  });
  // Before the data are there a control keeps what is typed; the first filter reads it.
  controls.forEach((name) => byId(name).addEventListener("input", () => { if (data !== null) filter(); }));
  byId("list").addEventListener("scroll", drawList);
  window.addEventListener("resize", drawList);

  const follow = async () => {
    try {
      const more = await (await fetch(`/new?since=${data.episodes.length}`)).json();
      if (more.episodes.length) {
        const before = data.episodes.length, kept = shown[chosen];
        Object.assign(data.tasks, more.tasks);
        data.sets = more.sets;
        data.episodes.push(...more.episodes);
        prepare(before);
        fillControls();
        filter(kept);
        if (following) choose(shown.length - 1);
      }
      byId("state").textContent = following ? "following" : "press f to follow";
    } catch { byId("state").textContent = "the server has gone"; }
    setTimeout(follow, 2000);
  };
  // The last run beside the one before it, and there what it has gained.
  const open = () => {
    const [set, other] = data.opening ?? [];
    if (set !== undefined) byId("set").value = set;
    if (other === undefined) return;
    byId("other").value = other;
    if (data.episodes.some((episode) => episode.set === set && OUTCOMES.lost(episode))) byId("outcome").value = "lost";
  };
  const start = (found) => {
    data = found;
    prepare(0);
    fillControls();
    let asked = [];
    try { asked = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { /* an address of no episode */ }
    if (asked.length === 4) byId("set").value = asked[0]; else open();
    filter();
    const place = shown.findIndex((episode) => asked.length === 4 && task(episode).id === asked[1] && String(episode.step ?? "") === asked[2] && String(episode.sample ?? "") === asked[3]);
    if (place >= 0) choose(place, true);
    document.body.dataset.ready = "1";
    if (isLive) follow();
  };
  // After the first paint: what stands above the viewer needs no data.
  requestAnimationFrame(() => setTimeout(async () =>
    start(isLive ? await (await fetch("/data")).json() : JSON.parse(byId("data").textContent))));
})();
