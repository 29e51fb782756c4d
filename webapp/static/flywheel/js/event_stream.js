// Reads an answer of server-sent events, which EventSource cannot do for requests with a body or a token.

/** Yields {id, type, data} of each event; data is JSON. Ends where the answer does. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const event = { id: "", type: "message", data: null };
      for (const line of part.split("\n")) {
        const [name, ...rest] = line.split(": ");
        const content = rest.join(": ");
        if (name === "id") event.id = content;
        else if (name === "event") event.type = content;
        else if (name === "data") event.data = JSON.parse(content);
      }
      if (event.data) yield event;
    }
  }
}
