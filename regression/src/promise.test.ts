import { describe, expect, test } from 'vitest';
import type { SeenEvent } from './follower.ts';
import { makeMessage } from './messages.ts';
import { faultsOf, longestGapMs, type Readings } from './promise.ts';
import type { Accepted, Talk } from './talk.ts';

const message = makeMessage('plain', { toolLog: '/tmp/tools.log', words: 3 });
const other = makeMessage('plain', { toolLog: '/tmp/tools.log', words: 3 });
const text = (of: typeof message) => `${of.token} w0 w1 w2`;

function accepted(turnId: string, of = message): Accepted {
  return {
    message: of,
    turnId,
    eventId: `e-${turnId}`,
    postedAtMs: 0,
    acceptedAtMs: 10,
    retries: 0,
    refusals: 0,
  };
}

type Given = readonly [type: string, turnId: string, fields?: Record<string, unknown>];

/** Events one offset after the other, 100 ms apart. */
function stream(...given: readonly Given[]): SeenEvent[] {
  return given.map(([type, turn_id, fields], index) => ({
    id: `1-${index + 1}`,
    type,
    data: { turn_id, attempt: 1, ...fields },
    atMs: 100 * (index + 1),
  }));
}

function turn(turnId: string, of = message): Given[] {
  const whole = text(of);
  return [
    ['turn.started', turnId],
    ['assistant.delta', turnId, { at: 0, text: whole.slice(0, 5) }],
    ['assistant.delta', turnId, { at: 5, text: whole.slice(5) }],
    ['assistant.final', turnId, { text: whole, length: whole.length }],
  ];
}

const stored = (events: readonly SeenEvent[]) => events.filter(({ type }) => type !== 'assistant.delta');

/** The faults of a session of turns a and b, with these events, and other readings where given. */
function judge(
  union: readonly SeenEvent[],
  readings: Partial<Readings> = {},
  first = [accepted('a')],
): string {
  const talk: Talk = {
    tenant: { tenant: 'acme', key: '' },
    sessionId: 's',
    accepted: [...first, accepted('b', other)],
    follower: undefined,
    say: () => Promise.reject(new Error('not here')),
    open: () => [],
    close: () => undefined,
  };
  return faultsOf(talk, { union, fresh: union, stored: stored(union), ...readings }).join('\n');
}

const whole = stream(...turn('a'), ...turn('b', other));
const without = (index: number) => whole.filter((_, at) => at !== index);
const changed = (index: number, change: (event: SeenEvent) => SeenEvent) =>
  whole.map((event, at) => (at === index ? change(event) : event));

test('a whole session has no fault', () => {
  expect(judge(whole)).toBe('');
});

describe('the check finds', () => {
  test.each([1, 2, 5, 6])('a hole where delta %i was', (index) => {
    expect(judge(without(index), { fresh: whole })).toContain('the follower missed');
    // Also where no other reader had it.
    expect(judge(without(index))).toMatch(/says at|deltas join/);
  });

  test('an event twice, and events out of order', () => {
    const repeated = whole.flatMap((event, index) => (index === 2 ? [event, event] : [event]));
    expect(judge(repeated)).toContain('1-3 came after 1-3');
    const [first, second, ...rest] = whole;
    if (first === undefined || second === undefined) throw new Error('no events');
    expect(judge([second, first, ...rest])).toContain('1-1 came after 1-2');
  });

  test('an event that is not stored, and one that only is', () => {
    expect(judge(whole, { stored: stored(whole).slice(1) })).toContain('which the stored page has not');
    expect(judge(without(0), { stored: stored(whole) })).toContain('missed 1-1 turn.started');
  });

  test('an event that another reader has otherwise', () => {
    const fresh = changed(0, (event) => ({ ...event, data: { ...event.data, persona_id: 'x' } }));
    expect(judge(whole, { fresh })).toContain('1-1 turn.started is another for a fresh reader');
  });

  test('a message without an end, and one with two', () => {
    expect(judge(without(7))).toContain('has 0 ends');
    const final = whole[3];
    if (final === undefined) throw new Error('no final');
    expect(judge([...whole, { ...final, id: '1-99' }])).toContain('has 2 ends');
  });

  test('turns in another order than their accepts, or mixed', () => {
    expect(judge(stream(...turn('b', other), ...turn('a')))).toContain('accepted as a, b');
    const [started, ...rest] = turn('b', other);
    const mixed = stream(...turn('a').slice(0, 2), started ?? ['', ''], ...turn('a').slice(2), ...rest);
    expect(judge(mixed)).toContain('turns are mixed');
  });

  test('a waiting turn that is spoken of while another runs is no fault', () => {
    const [started, ...rest] = turn('a');
    expect(
      judge(stream(started ?? ['', ''], ['turn.queued', 'b', { position: 1 }], ...rest, ...turn('b', other))),
    ).toBe('');
  });

  test('a final that is not its deltas, has a wrong length, or answers something else', () => {
    const wrong = (fields: object) =>
      judge(changed(3, (event) => ({ ...event, data: { ...event.data, ...fields } })));
    expect(wrong({ text: 'else' })).toMatch(/deltas join[\s\S]*and answered "else"/);
    expect(wrong({ length: 1 })).toContain('length 1 is wrong');
  });

  test('an error where an answer was promised', () => {
    const events = changed(3, (event) => ({
      ...event,
      type: 'assistant.error',
      data: { ...event.data, error_code: 'RETRY_BUDGET_SPENT', message: 'given up' },
    }));
    expect(judge(events)).toContain('ended with assistant.error');
  });

  test('a cancelled turn that nobody might cancel, and one whose text is not what was shown', () => {
    const cancelled = (fields: object) =>
      changed(3, (event) => ({ ...event, type: 'turn.cancelled', data: { ...event.data, ...fields } }));
    expect(judge(cancelled({}))).toContain('ended with turn.cancelled');
    const may = [{ ...accepted('a'), message: { ...message, mayEnd: ['turn.cancelled'] as const } }];
    expect(judge(cancelled({}), {}, may)).toBe('');
    expect(judge(cancelled({ text: 'else' }), {}, may)).toContain('its end says "else"');
  });

  test("another session's text or turn", () => {
    const third = makeMessage('plain', { toolLog: '' });
    const events = changed(1, (event) => ({ ...event, data: { ...event.data, note: third.token } }));
    expect(judge(events)).toContain(`${third.token} is of another session`);
    expect(judge(stream(...turn('a'), ...turn('b', other), ['turn.started', 'c']))).toContain(
      'turn c is of no accepted message',
    );
  });

  test('what comes of a turn after its end', () => {
    expect(judge(stream(...turn('a'), ['turn.started', 'a'], ...turn('b', other)))).toContain(
      'after the end',
    );
  });

  test('two results of one tool call', () => {
    const [started, ...rest] = turn('a');
    const result: Given = ['tool.result', 'a', { call_id: 'x' }];
    expect(judge(stream(started ?? ['', ''], result, result, ...rest, ...turn('b', other)))).toContain(
      'call x has 2 results',
    );
  });
});

describe('a turn that was taken over', () => {
  const resumed = (...events: readonly Given[]) => judge(stream(...events, ...turn('b', other)));
  const before = turn('a').slice(0, 2);
  const again = (attempt: number): Given[] =>
    turn('a')
      .slice(1)
      .map(([type, turnId, fields]) => [type, turnId, { ...fields, attempt }]);

  test('begins anew behind turn.resumed', () => {
    expect(resumed(...before, ['turn.resumed', 'a', { attempt: 2, keep_chars: 0 }], ...again(2))).toBe('');
  });

  test('is a fault without turn.resumed', () => {
    expect(resumed(...before, ...again(2))).toContain('without turn.resumed');
  });

  test('is a fault where the earlier attempt still speaks', () => {
    const late: Given = ['assistant.delta', 'a', { at: 0, text: 'late' }];
    expect(
      resumed(...before, ['turn.resumed', 'a', { attempt: 2, keep_chars: 0 }], late, ...again(2)),
    ).toContain('of attempt 1 after 2');
  });
});

test('the longest gap counts only while a turn is open', () => {
  const events = stream(['turn.started', 'a'], ['assistant.final', 'a'], ['turn.started', 'b']).map(
    (event, index) => ({ ...event, atMs: [100, 250, 9_000][index] ?? 0 }),
  );
  const late = { ...accepted('b'), acceptedAtMs: 8_500 };
  expect(longestGapMs([accepted('a'), late], events)).toBe(500);
});
