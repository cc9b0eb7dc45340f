// Pictures computed by the server that this page came from.

let models = []; // as the server lists them

// The classes of an overlay, largest first: [{ name, colour }].
function classesOf(answer, model) {
  const { classes, palette } = models.find((one) => one.name === model);
  const indices = answer.headers.get("x-classes")?.split(",").filter(Boolean) ?? [];
  return indices.map((index) => ({ name: classes[index], colour: `rgb(${palette[index]})` }));
}

async function ask(blob, { model, background, task }, views) {
  const form = new FormData();
  form.append("file", blob, "picture");
  form.append("model", model);
  if (task) {
    form.append("task", task);
    form.append("format", "overlay");
  } else {
    form.append("views", String(views));
    if (background instanceof Blob) form.append("background", background, "background");
    else form.append("background", background);
  }
  for (let tries = 0; ; tries++) {
    const answer = await fetch(task ? "v1/segment" : "v1/portrait", { method: "POST", body: form });
    if (answer.status === 503 && tries < 3) {
      const seconds = Number(answer.headers.get("retry-after")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 10)));
      continue;
    }
    if (!answer.ok) {
      const words = await answer.json().catch(() => ({}));
      throw new Error(typeof words.detail === "string" ? words.detail : `The server answered ${answer.status}.`);
    }
    const segments = answer.headers.get("x-segments");
    return {
      blob: await answer.blob(),
      share: task ? 1 : Number(answer.headers.get("x-person-share")),
      segments: segments === null ? null : Number(segments),
      classes: classesOf(answer, model),
    };
  }
}

export async function connect() {
  models = await (await fetch("v1/models")).json();
  return {
    where: "Pictures are computed by the server behind this page, which keeps none of them.",
    models: models.map((model) => model.name),
    // what models that make no portraits can be asked for
    tasks: Object.fromEntries(models.filter((model) => !model.portrait).map((model) => [model.name, model.tasks])),
    photo: (file, settings) => ask(file, settings, true),
    async frame(canvas, settings) {
      const jpeg = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
      const { blob, classes } = await ask(jpeg, settings, false);
      return Object.assign(await createImageBitmap(blob), { classes });
    },
  };
}
