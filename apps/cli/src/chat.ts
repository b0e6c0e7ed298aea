import { createInterface } from 'node:readline/promises';
import { fault } from '@signalbox/faults/fault';
import { type GatewayAddress, postMessage, sessionEvents } from './gateway-client.ts';
import { createTurnView, type TurnEnd } from './turn-view.ts';

export interface ChatOptions {
  readonly gatewayUrl: string;
  readonly apiKey: string | undefined;
  readonly sessionId: string | undefined;
  readonly personaId: string | undefined;
  readonly write: (text: string) => void;
  /** Ids and hints, apart from the answer: `chat --once … > file` keeps the answer alone. */
  readonly note: (line: string) => void;
}

/** Sends one message and shows its turn. False when the turn failed. */
export async function chatOnce(options: ChatOptions, message: string): Promise<boolean> {
  const stop = new AbortController();
  try {
    const conversation = createConversation(options, stop.signal);
    const end = await conversation.say(message);
    return end.ok;
  } finally {
    stop.abort();
  }
}

/** Reads messages from the terminal until its end (Ctrl-D) and shows each turn. */
export async function chatTerminal(options: ChatOptions): Promise<void> {
  const stop = new AbortController();
  const terminal = createInterface({ input: process.stdin, output: process.stderr, prompt: 'you> ' });
  try {
    const conversation = createConversation(options, stop.signal);
    options.note(`talking to ${options.gatewayUrl}; Ctrl-D ends`);
    terminal.prompt();
    for await (const line of terminal) {
      if (line.trim() !== '') await conversation.say(line);
      terminal.prompt();
    }
  } finally {
    terminal.close();
    stop.abort();
  }
}

/** One session: its stream is followed across turns, so that a turn's events are never missed between two of them. */
function createConversation(options: ChatOptions, signal: AbortSignal) {
  const { apiKey, gatewayUrl, personaId, write, note } = options;
  if (apiKey === undefined) {
    throw fault('UNAUTHENTICATED', 'no API key: give --key or set API_KEY; npm start shows the seeded ones');
  }
  const gateway: GatewayAddress = { url: gatewayUrl, apiKey };
  let sessionId = options.sessionId;
  let events: ReturnType<typeof sessionEvents> | undefined;

  return {
    async say(message: string): Promise<TurnEnd> {
      const posted = await postMessage(
        gateway,
        {
          message,
          ...(sessionId === undefined ? {} : { session_id: sessionId }),
          ...(personaId === undefined ? {} : { persona_id: personaId }),
        },
        signal,
      );
      if (sessionId === undefined) note(`session ${posted.sessionId}`);
      sessionId = posted.sessionId;
      events ??= sessionEvents(gateway, sessionId, signal);
      const view = createTurnView(posted.turnId);
      for (let next = await events.next(); next.done !== true; next = await events.next()) {
        const shown = view.apply(next.value.event, next.value.data);
        if (shown !== '') write(shown);
        if (view.end !== undefined) {
          note(`event ${posted.eventId}`);
          return view.end;
        }
      }
      throw fault('ABORTED', 'the stream was ended');
    },
  };
}
