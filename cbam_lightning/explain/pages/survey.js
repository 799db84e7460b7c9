(() => {
  const PAUSE_MS = 250; // so that the second half of a double click does not answer the next question
  const LONGER_SIDE_PX = 512;
  const ALPHA = 0.5;
  const questions = new Map(items.map((item) => [item.id, item]));
  const storageKey = `cbam-lightning-survey-${data.survey}`;
  let state = restore();
  let place = 0; // index in state.order; its length stands for the end
  let turn = 0;
  let busy = false;

  function fresh() {
    const order = [...questions.keys()];
    for (let last = order.length - 1; last > 0; last--) {
      const other = Math.floor(Math.random() * (last + 1));
      [order[last], order[other]] = [order[other], order[last]];
    }
    const voter = [...crypto.getRandomValues(new Uint8Array(16))];
    return { voter: voter.map((byte) => byte.toString(16).padStart(2, "0")).join(""), order, answers: new Map() };
  }

  function restore() {
    try {
      const { voter, order, answers } = JSON.parse(localStorage.getItem(storageKey));
      const known = order.length === questions.size && new Set(order).size === order.length;
      if (known && order.every((id) => questions.has(id)) && /^[0-9a-f]{32}$/.test(voter)) {
        return { voter, order, answers: new Map(Object.entries(answers).filter(([id, token]) => allowed(id, token))) };
      }
    } catch {
      // nothing is stored, or it cannot be read: start over
    }
    return fresh();
  }

  function allowed(id, token) {
    const tokens = questions.get(id)?.options.map((option) => option.token) ?? [];
    return tokens.includes(token) || (questions.has(id) && token === data.none);
  }

  function keep() {
    try {
      const { voter, order, answers } = state;
      localStorage.setItem(storageKey, JSON.stringify({ voter, order, answers: Object.fromEntries(answers) }));
      byId("unsaved").hidden = true;
    } catch {
      byId("unsaved").hidden = false;
    }
  }

  function firstOpen() {
    const found = state.order.findIndex((id) => !state.answers.has(id));
    return found < 0 ? state.order.length : found;
  }

  function go(to) {
    place = to;
    const atEnd = place === state.order.length;
    byId("question").hidden = atEnd;
    byId("end").hidden = !atEnd;
    byId("bar").max = state.order.length;
    byId("bar").value = state.answers.size;
    byId("place").textContent = atEnd
      ? `${state.answers.size} of ${state.order.length} answered`
      : `${place + 1} of ${state.order.length}`;
    turn += 1;
    if (atEnd) finish();
    else ask(questions.get(state.order[place]), turn);
  }

  async function ask(item, mine) {
    busy = true;
    byId("question").setAttribute("aria-busy", "true");
    describe(item);
    const picture = new Image();
    picture.src = item.image;
    const pause = new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    await picture.decode(); // the previous maps stay until then, so that nothing jumps
    if (mine !== turn) return;
    offer(item, picture);
    await pause;
    if (mine !== turn) return;
    busy = false;
    byId("question").setAttribute("aria-busy", "false");
  }

  function describe(item) {
    const chosen = state.answers.get(item.id);
    byId("class").textContent = item.class;
    byId("last").textContent = String(Math.min(item.options.length, 9));
    byId("none").setAttribute("aria-pressed", String(chosen === data.none));
    byId("back").disabled = place === 0;
    byId("next").disabled = chosen === undefined;
    byId("stop").textContent = state.answers.size === state.order.length ? "Finish" : "Stop here";
  }

  function offer(item, picture) {
    const plain = document.createElement("figure");
    plain.append(canvas("The image without a map"), caption("Image"));
    paint(plain.firstChild, picture);
    const chosen = state.answers.get(item.id);
    const buttons = item.options.map((option, index) => {
      const button = optionButton(option, index, option.token === chosen);
      paint(button.firstChild, picture, item, option.map);
      return button;
    });
    byId("choices").replaceChildren(plain, ...buttons);
  }

  function canvas(label) {
    const element = document.createElement("canvas");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    return element;
  }

  function caption(text) {
    const element = document.createElement("figcaption");
    element.textContent = text;
    return element;
  }

  function optionButton(option, index, chosen) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(chosen));
    button.setAttribute("aria-label", `Map ${index + 1}`);
    const number = document.createElement("kbd");
    number.textContent = String(index + 1);
    button.append(canvas(`The image under map ${index + 1}`), number);
    button.addEventListener("click", () => answer(option.token));
    return button;
  }

  function paint(target, picture, item, map) {
    const scale = LONGER_SIDE_PX / Math.max(picture.naturalWidth, picture.naturalHeight);
    target.width = Math.max(1, Math.round(picture.naturalWidth * scale));
    target.height = Math.max(1, Math.round(picture.naturalHeight * scale));
    const context = target.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, target.width, target.height);
    if (map === undefined) return;
    context.globalAlpha = ALPHA;
    context.drawImage(gridCanvas(bytes(map), item.rows, item.columns), 0, 0, target.width, target.height);
  }

  function answer(token) {
    if (busy) return;
    state.answers.set(state.order[place], token);
    keep();
    move(place + 1);
  }

  function move(to) {
    go(to);
    byId(place === state.order.length ? "thanks" : "asked").focus();
  }

  function votes() {
    const { voter, answers } = state;
    const complete = answers.size === state.order.length;
    const pairs = [...answers].sort(([a], [b]) => (a < b ? -1 : 1));
    const lines = [data.format, data.survey, voter, complete ? "complete" : "incomplete"];
    const checksum = crc32([...lines, ...pairs.map(([id, token]) => `${id} ${token}`)].join("\n"));
    const content = { format: data.format, survey: data.survey, voter, complete, answers: Object.fromEntries(pairs), checksum };
    return `${JSON.stringify(content, null, 1)}\n`;
  }

  // of ASCII text, like zlib.crc32 in Python
  function crc32(text) {
    let crc = 0xffffffff;
    for (const character of text) {
      crc ^= character.charCodeAt(0);
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ((crc ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
  }

  function fileName() {
    return `votes-${state.voter.slice(0, 8)}.json`;
  }

  function finish() {
    const open = state.order.length - state.answers.size;
    byId("summary").textContent = open
      ? `You have answered ${state.answers.size} of ${state.order.length} questions. You can continue, or send the answers so far.`
      : `You have answered all ${state.order.length} questions.`;
    byId("file").textContent = fileName();
    byId("votes").value = votes();
    byId("done").textContent = "";
    byId("resume").hidden = !open;
    byId("return").hidden = Boolean(open);
    byId("download").disabled = state.answers.size === 0;
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([votes()], { type: "application/json" }));
    link.download = fileName();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    byId("done").textContent = `${fileName()} is in your downloads folder. Please send it back.`;
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(votes());
      byId("done").textContent = "The text is copied. Please send it back.";
    } catch {
      byId("votes").select();
      const copied = document.execCommand("copy");
      byId("done").textContent = copied
        ? "The text is copied. Please send it back."
        : "This browser cannot copy. Please copy the selected text below yourself.";
    }
  }

  function press(event) {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || byId("question").hidden) return;
    const options = questions.get(state.order[place]).options;
    if (event.key === "ArrowLeft" && place > 0) move(place - 1);
    else if (event.key === "ArrowRight" && !byId("next").disabled) move(place + 1);
    else if (event.key === "0") answer(data.none);
    else if (/^[1-9]$/.test(event.key) && event.key <= options.length) answer(options[event.key - 1].token);
  }

  byId("legend").getContext("2d").drawImage(gridCanvas(Uint8Array.from({ length: 256 }, (_, i) => i), 1, 256), 0, 0);
  byId("none").addEventListener("click", () => answer(data.none));
  byId("back").addEventListener("click", () => move(place - 1));
  byId("next").addEventListener("click", () => move(place + 1));
  byId("stop").addEventListener("click", () => move(state.order.length));
  byId("resume").addEventListener("click", () => move(firstOpen()));
  byId("return").addEventListener("click", () => move(state.order.length - 1));
  byId("download").addEventListener("click", download);
  byId("copy").addEventListener("click", copy);
  document.addEventListener("keydown", press);
  window.addEventListener("storage", (event) => {
    if (event.key !== storageKey) return;
    state = restore(); // answered in another tab
    go(firstOpen());
  });
  keep();
  go(firstOpen());
})();
