import { followSession, type OpenStream, type Poster } from './client.ts';
import { SessionCheck } from './session-check.ts';

/** A session of the product, or of a floor, with its stream open and checked. */
export interface Conversation {
  sessionId: string;
  check: SessionCheck;
  /** Posts one message and waits for the turn's end; rejects after `limitMs`. */
  say(message: string, limitMs?: number): Promise<void>;
  close(): void;
}

/**
 * Opens a conversation: the product makes a session with its first message (which is not measured), a floor takes any
 * id once its stream is open.
 */
export async function openConversation(
  base: string,
  apiKey: string,
  poster: Poster,
  options: { bare: boolean; firstMessage: string; personaId?: string },
): Promise<Conversation> {
  const check = new SessionCheck({ bare: options.bare });
  const persona = options.personaId === undefined ? {} : { persona_id: options.personaId };
  let sessionId: string;
  let stream: OpenStream;
  if (options.bare) {
    sessionId = `floor-${crypto.randomUUID()}`;
    stream = followSession(base, apiKey, `/v1/session/${sessionId}/events`, (event) => check.see(event));
    await stream.opened;
  } else {
    const finished = check.begin();
    const posted = await poster.post({ message: options.firstMessage, ...persona });
    if (posted.status !== 202) throw new Error(`the first message was answered ${posted.status}`);
    sessionId = posted.sessionId;
    stream = followSession(base, apiKey, `/v1/session/${sessionId}/events`, (event) => check.see(event));
    await stream.opened;
    await bounded(finished, 30_000, 'the first turn');
    check.firstDeltasMs.length = 0;
    check.gapsMs.length = 0;
    check.deltas = 0;
    check.finals = 0;
  }
  return {
    sessionId,
    check,
    async say(message, limitMs = 30_000) {
      const finished = check.begin();
      const posted = await poster.post({ message, session_id: sessionId, ...persona });
      if (posted.status !== 202) {
        check.faults.push(`POST answered ${posted.status}`);
        return;
      }
      await bounded(finished, limitMs, 'a turn');
    },
    close: () => stream.close(),
  };
}

/** The promise, or an error that names what did not come in time. */
export async function bounded<T>(promise: Promise<T>, limitMs: number, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`${what} took longer than ${limitMs} ms`)), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
