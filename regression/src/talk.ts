import { isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import type { Tenant } from './cluster.ts';
import { type Follower, follow } from './follower.ts';
import type { Message } from './messages.ts';
import { type Answer, send } from './request.ts';

/** A message with its 202. */
export interface Accepted {
  readonly message: Message;
  readonly turnId: string;
  readonly eventId: string;
  readonly postedAtMs: number;
  readonly acceptedAtMs: number;
  /** Tries of the post after the first. */
  readonly retries: number;
  /** Those that were answered 429 or 503; the others were not answered. */
  readonly refusals: number;
}

export interface TalkOptions {
  readonly url: string;
  readonly tenant: Tenant;
  readonly hopAfter?: number;
}

export interface Talk {
  readonly tenant: Tenant;
  /** Undefined until a first message was accepted. */
  readonly sessionId: string | undefined;
  readonly accepted: readonly Accepted[];
  readonly follower: Follower | undefined;
  /** Posts a message and resolves at its 202. The first makes the session and opens the stream. One at a time. */
  say(message: Message, extra?: Readonly<Record<string, unknown>>): Promise<Accepted>;
  /** Turns that were accepted and have no terminal event yet. */
  open(): readonly Accepted[];
  close(): void;
}

const postBoundMs = 60_000;
/** What a client may meet with while replicas die, and answers by asking again. */
const tryAgain = new Set([429, 503]);

/** One session as a good client has it: each post with an Idempotency-Key, tried again until it is answered. */
export function startTalk(options: TalkOptions): Talk {
  const { url, tenant } = options;
  const accepted: Accepted[] = [];
  const ended = new Set<string>();
  let sessionId: string | undefined;
  let follower: Follower | undefined;

  async function say(message: Message, extra = {}): Promise<Accepted> {
    const postedAtMs = performance.now();
    const body = {
      message: message.text,
      ...(sessionId === undefined ? {} : { session_id: sessionId }),
      ...extra,
    };
    const { answer, retries, refusals } = await persistently(() =>
      send(`${url}/v1/session/message`, {
        key: tenant.key,
        body,
        // The same over all tries: a try whose answer was lost is no second turn.
        headers: { 'idempotency-key': message.token },
      }),
    );
    if (answer.status !== 202) throw new Error(`a post was answered ${answer.status}: ${answer.body}`);
    const ids: { session_id: string; event_id: string; turn_id: string } = JSON.parse(answer.body);
    const one: Accepted = {
      message,
      turnId: ids.turn_id,
      eventId: ids.event_id,
      postedAtMs,
      acceptedAtMs: performance.now(),
      retries,
      refusals,
    };
    accepted.push(one);
    sessionId = ids.session_id;
    if (follower === undefined) {
      follower = follow({
        url,
        key: tenant.key,
        sessionId,
        ...(options.hopAfter === undefined ? {} : { hopAfter: options.hopAfter }),
        onEvent: ({ type, data }) => {
          if (isTerminalEvent(type)) ended.add(data.turn_id);
        },
      });
      await follower.opened;
    }
    return one;
  }

  return {
    tenant,
    get sessionId() {
      return sessionId;
    },
    accepted,
    get follower() {
      return follower;
    },
    say,
    open: () => accepted.filter(({ turnId }) => !ended.has(turnId)),
    close: () => follower?.close(),
  };
}

/**
 * Repeats what was not answered, or answered with 429 or 503, as a client that honours Retry-After within reason. Throws
 * when a refusal does not say when to come back.
 */
export async function persistently(
  ask: () => Promise<Answer>,
): Promise<{ answer: Answer; retries: number; refusals: number }> {
  const startedAt = performance.now();
  let refusals = 0;
  for (let retries = 0; ; retries += 1) {
    const answer = await ask().catch(() => undefined);
    if (answer !== undefined) {
      if (!tryAgain.has(answer.status)) return { answer, retries, refusals };
      refusals += 1;
      if (answer.headers['retry-after'] === undefined)
        throw new Error(`a post was answered ${answer.status} without Retry-After: ${answer.body}`);
    }
    if (performance.now() - startedAt > postBoundMs)
      throw new Error(
        `a post was not accepted in ${postBoundMs} ms, last: ${answer?.status} ${answer?.body}`,
      );
    const asked = Number(answer?.headers['retry-after'] ?? 0) * 1_000;
    await new Promise((resolve) =>
      setTimeout(resolve, Math.min(1_000, Math.max(asked, 50 + Math.random() * 150))),
    );
  }
}
