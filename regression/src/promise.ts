import { isDeltaEvent, isTerminalEvent } from '@signalbox/contracts/conversation-outbound';
import type { SeenEvent } from './follower.ts';
import { tokenForm } from './messages.ts';
import type { Accepted, Talk } from './talk.ts';

/** An event without the time of its arrival: what two readings of a stream must agree in. */
export type PlainEvent = Omit<SeenEvent, 'atMs'>;

/** What one session's readers got. */
export interface Readings {
  /** By the follower of the talk, over all its connections. */
  readonly union: readonly SeenEvent[];
  /** By a reader that came when all was over and began at the start. */
  readonly fresh: readonly PlainEvent[];
  /** GET /v1/sessions/{id}/events, all pages: events without deltas. */
  readonly stored: readonly PlainEvent[];
}

/** What is wrong with a session, in sentences; empty when the promise holds. Pure. */
export function faultsOf(talk: Talk, { union, fresh, stored }: Readings): string[] {
  const faults = [
    ...risingIds(union),
    ...sameEvents('the follower', union, 'a fresh reader', fresh),
    ...sameEvents(
      'the follower',
      union.filter(({ type }) => !isDeltaEvent(type)),
      'the stored page',
      stored,
    ),
    ...oneEndEach(talk.accepted, union),
    ...inOrder(talk.accepted, union),
    ...strangers(talk.accepted, union),
  ];
  for (const accepted of talk.accepted) faults.push(...faultsOfTurn(accepted, union));
  return faults.map((fault) => `${talk.tenant.tenant} ${talk.sessionId}: ${fault}`);
}

function positionOf(id: string): bigint {
  return BigInt(id.split('-')[1] ?? -1);
}

function risingIds(events: readonly SeenEvent[]): string[] {
  return events.flatMap(({ id }, index) => {
    const before = events[index - 1]?.id;
    return before !== undefined && positionOf(id) <= positionOf(before) ? [`${id} came after ${before}`] : [];
  });
}

function sameEvents(
  oneName: string,
  one: readonly PlainEvent[],
  otherName: string,
  other: readonly PlainEvent[],
): string[] {
  const [ours, theirs] = [
    new Map(one.map((each) => [each.id, each])),
    new Map(other.map((each) => [each.id, each])),
  ];
  const missing = [...theirs.values()].filter(({ id }) => !ours.has(id));
  const extra = [...ours.values()].filter(({ id }) => !theirs.has(id));
  const differing = [...ours.values()].filter((each) => {
    const their = theirs.get(each.id);
    return their !== undefined && (their.type !== each.type || !sameData(their.data, each.data));
  });
  return [
    ...missing.map(({ id, type }) => `${oneName} missed ${id} ${type}, which ${otherName} has`),
    ...extra.map(({ id, type }) => `${oneName} has ${id} ${type}, which ${otherName} has not`),
    ...differing.map(({ id, type }) => `${id} ${type} is another for ${otherName}`),
  ];
}

/** Postgres keeps jsonb without the order of its keys. */
function sameData(one: unknown, other: unknown): boolean {
  return JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inside]) => [name, sorted(inside)]),
  );
}

function oneEndEach(accepted: readonly Accepted[], events: readonly SeenEvent[]): string[] {
  return accepted.flatMap(({ turnId, message }) => {
    const ends = events.filter(({ type, data }) => isTerminalEvent(type) && data.turn_id === turnId);
    if (ends.length === 1) return [];
    return [`turn ${turnId} (${message.kind} ${message.token}) has ${ends.length} ends: ${shown(ends)}`];
  });
}

/** Turns of a session one after the other, in the order of their accepts. */
function inOrder(accepted: readonly Accepted[], events: readonly SeenEvent[]): string[] {
  // A turn that never ran (waits, is rejected, is cancelled while it waits) is spoken of while another runs.
  const ran = new Set(events.filter(({ type }) => runs.has(type)).map(({ data }) => data.turn_id));
  const order = accepted.map(({ turnId }) => turnId).filter((turnId) => ran.has(turnId));
  const said = events.filter(({ type, data }) => type !== 'turn.queued' && ran.has(data.turn_id));
  const ends = said.filter(({ type }) => isTerminalEvent(type)).map(({ data }) => data.turn_id);
  const wanted = order.filter((turnId) => ends.includes(turnId));
  if (wanted.some((turnId, index) => ends[index] !== turnId))
    return [`turns ended as ${ends.join(', ')}, accepted as ${order.join(', ')}`];
  // What a run says comes in one piece.
  const turns = said.map(({ data }) => data.turn_id);
  const pieces = turns.filter((turnId, index) => turnId !== turns[index - 1]);
  return pieces.length === new Set(pieces).size ? [] : [`turns are mixed: ${pieces.join(', ')}`];
}

/** Events that only a turn has that runs or ran. */
const runs = new Set(['turn.started', 'turn.resumed', 'assistant.delta', 'assistant.final']);

/** Tokens and turns that this session never had: another's, another tenant's. */
function strangers(accepted: readonly Accepted[], events: readonly SeenEvent[]): string[] {
  const own = new Set(accepted.map(({ message }) => message.token));
  const turns = new Set(accepted.map(({ turnId }) => turnId));
  const found = new Set<string>();
  for (const { type, data } of events) {
    // What a tenant's other sessions said is what it remembers; the side services' promise looks at whose it is.
    if (type === 'memory.recalled') continue;
    if (!turns.has(data.turn_id)) found.add(`turn ${data.turn_id} is of no accepted message`);
    for (const token of JSON.stringify(data).match(tokenForm) ?? [])
      if (!own.has(token)) found.add(`${token} is of another session`);
  }
  return [...found];
}

function faultsOfTurn({ turnId, message }: Accepted, events: readonly SeenEvent[]): string[] {
  const own = events.filter(({ data }) => data.turn_id === turnId);
  const faults: string[] = [];
  const state = { text: '', thinking: '', attempt: 1, ended: false };
  const results = new Map<string, number>();
  for (const { id, type, data } of own) {
    if (state.ended) faults.push(`${id} ${type} after the end`);
    if (data.attempt < state.attempt)
      faults.push(`${id} ${type} of attempt ${data.attempt} after ${state.attempt}`);
    if (data.attempt > state.attempt && type !== 'turn.resumed' && !isTerminalEvent(type))
      faults.push(`${id} ${type} of attempt ${data.attempt} without turn.resumed`);
    state.attempt = data.attempt;
    state.ended ||= isTerminalEvent(type);
    if (type === 'turn.resumed') {
      state.text = [...state.text].slice(0, Number(data.keep_chars)).join('');
      state.thinking = '';
    } else if (type === 'assistant.delta') {
      if (data.at !== [...state.text].length)
        faults.push(`${id} says at ${data.at}, behind it are ${[...state.text].length} code points`);
      state.text += data.text;
    } else if (type === 'tool.result') {
      const callId = String(data.call_id);
      results.set(callId, (results.get(callId) ?? 0) + 1);
    } else if (isTerminalEvent(type) && !message.mayEnd.some((end) => end === type)) {
      faults.push(`ended with ${type}: ${JSON.stringify(data)}`);
    } else if (type === 'assistant.final' || type === 'turn.cancelled') {
      if (data.text !== state.text)
        faults.push(`its deltas join to "${state.text}", its end says "${data.text}"`);
      if (data.length !== [...String(data.text)].length) faults.push(`length ${data.length} is wrong`);
      if (type === 'assistant.final' && !message.answer.test(String(data.text)))
        faults.push(`was asked "${message.text}" and answered "${data.text}"`);
    }
  }
  for (const [callId, times] of results) if (times > 1) faults.push(`call ${callId} has ${times} results`);
  return faults.map((fault) => `turn ${turnId} (${message.kind} ${message.token}): ${fault}; ${shown(own)}`);
}

/** Events in short, for a person who looks for the moment at which it went wrong. */
function shown(events: readonly SeenEvent[]): string {
  const parts = events.map(({ id, type, data }) => `${id} ${type}/${data.attempt}`);
  return parts.length > 40 ? `${parts.slice(0, 40).join(', ')} …` : parts.join(', ');
}

/** The longest time that a client with an open turn heard nothing. */
export function longestGapMs(accepted: readonly Accepted[], events: readonly SeenEvent[]): number {
  const endOf = new Map(
    events.filter(({ type }) => isTerminalEvent(type)).map(({ data, atMs }) => [data.turn_id, atMs]),
  );
  let longest = 0;
  for (const [index, event] of events.entries()) {
    const openSince = accepted
      .filter(
        ({ acceptedAtMs, turnId }) =>
          acceptedAtMs < event.atMs && (endOf.get(turnId) ?? Infinity) >= event.atMs,
      )
      .map(({ acceptedAtMs }) => acceptedAtMs);
    if (openSince.length === 0) continue;
    longest = Math.max(longest, event.atMs - Math.max(events[index - 1]?.atMs ?? 0, Math.min(...openSince)));
  }
  return longest;
}
