import { createInterface } from 'node:readline/promises';
import { fault } from '@signalbox/faults/fault';
import { cancelTurn, type GatewayAddress, postMessage, sessionEvents } from './gateway-client.ts';
import { createTurnView, type TurnEnd } from './turn-view.ts';

export interface ChatOptions {
  readonly gatewayUrl: string;
  readonly apiKey: string | undefined;
  readonly sessionId: string | undefined;
  readonly personaId: string | undefined;
  readonly write: (text: string) => void;
  /** Ids and hints, apart from the answer: `chat --once … > file` keeps the answer alone. */
  readonly note: (line: string) => void;
  /** Calls back at each Ctrl-C until the answered function is called. */
  readonly interrupts: (onInterrupt: () => void) => () => void;
}

/** Sends one message and shows its turn. False when the turn failed. */
export async function chatOnce(options: ChatOptions, message: string): Promise<boolean> {
  const stop = new AbortController();
  const conversation = createConversation(options, stop);
  const release = options.interrupts(conversation.interrupt);
  try {
    const end = await conversation.say(message);
    return end.ok;
  } finally {
    release();
    await conversation.end();
  }
}

/** Reads messages from the terminal until its end (Ctrl-D) and shows each turn. */
export async function chatTerminal(options: ChatOptions): Promise<void> {
  const stop = new AbortController();
  const conversation = createConversation(options, stop);
  const terminal = createInterface({ input: process.stdin, output: process.stderr, prompt: 'you> ' });
  // While it reads from a terminal it takes Ctrl-C as a key, and no signal comes.
  terminal.on('SIGINT', conversation.interrupt);
  const release = options.interrupts(conversation.interrupt);
  stop.signal.addEventListener('abort', () => terminal.close(), { once: true });
  try {
    options.note(`talking to ${options.gatewayUrl}; Ctrl-C cancels an answer, Ctrl-D ends`);
    terminal.prompt();
    for await (const line of terminal) {
      if (line.trim() !== '') await conversation.say(line);
      terminal.prompt();
    }
  } finally {
    release();
    terminal.close();
    await conversation.end();
  }
}

/** One session: its stream is followed across turns, so that a turn's events are never missed between two of them. */
function createConversation(options: ChatOptions, stop: AbortController) {
  const { apiKey, gatewayUrl, personaId, write, note } = options;
  const { signal } = stop;
  if (apiKey === undefined) {
    throw fault('UNAUTHENTICATED', 'no API key: give --key or set API_KEY; npm start shows the seeded ones');
  }
  const gateway: GatewayAddress = { url: gatewayUrl, apiKey };
  let sessionId = options.sessionId;
  let events: ReturnType<typeof sessionEvents> | undefined;
  /** The turn whose answer is being shown; a Ctrl-C during it is asked for once. */
  let answering: { readonly session_id: string; readonly turn_id: string } | undefined;

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
      // A session made just now is followed from its start, also when the stream is cut before its first event.
      const beginning = sessionId === undefined ? '0-0' : undefined;
      if (sessionId === undefined) note(`session ${posted.sessionId}`);
      sessionId = posted.sessionId;
      events ??= sessionEvents(gateway, sessionId, signal, beginning);
      const view = createTurnView(posted.turnId);
      answering = { session_id: sessionId, turn_id: posted.turnId };
      try {
        for (let next = await events.next(); next.done !== true; next = await events.next()) {
          const shown = view.apply(next.value.event, next.value.data);
          if (shown !== '') write(shown);
          if (view.end !== undefined) {
            note(`event ${posted.eventId}`);
            return view.end;
          }
        }
      } finally {
        answering = undefined;
      }
      signal.throwIfAborted();
      throw fault('ABORTED', 'the stream was ended');
    },

    /** Lets go of the stream, which otherwise keeps the process until its silence is too long. */
    async end(): Promise<void> {
      stop.abort();
      await events?.return();
    },

    /** Ctrl-C: the answer that is being shown is cancelled; a second one, or one at any other time, leaves. */
    interrupt(): void {
      if (answering === undefined) {
        stop.abort(fault('ABORTED', 'left by Ctrl-C'));
        return;
      }
      const turn = answering;
      answering = undefined;
      note('\ncancelling; Ctrl-C again leaves');
      cancelTurn(gateway, turn, signal).catch((error: unknown) => {
        if (!signal.aborted) note(`not cancelled: ${error instanceof Error ? error.message : String(error)}`);
      });
    },
  };
}
