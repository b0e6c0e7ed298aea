import { expect, test } from 'vitest';
import { newId } from './ids.ts';
import { prepareValidators, readValue, validateValue } from './validate.ts';

const delta = { turn_id: newId(), attempt: 1, at: 0, text: 'Hello' };
const check = (value: unknown, eventType = 'assistant.delta', schema = 'conversation.outbound.v1') =>
  validateValue('conversation.outbound', eventType, schema, value);

test('a value passes as it is, unknown fields included', () => {
  const value = { ...delta, added_by_a_later_release: { deep: [1] } };
  const result = check(value);
  expect(result).toEqual({ ok: true, value });
  expect(result.ok && result.value).toBe(value);
});

test.each([
  [{ ...delta, at: -1 }, '/at'],
  [{ ...delta, at: '0' }, '/at'],
  [{ ...delta, attempt: 0 }, '/attempt'],
  [{ ...delta, turn_id: 'turn-1' }, '/turn_id'],
  [{ ...delta, text: undefined }, ''],
  [{ attempt: 1 }, ''],
  [null, ''],
  ['text', ''],
  [[], ''],
])('%j is refused with the place', (value, path) => {
  expect(check(value)).toMatchObject({ ok: false, errors: [{ path, message: expect.any(String) }] });
});

test('a field counts only when the value itself has it', () => {
  expect(check(Object.create(delta)).ok).toBe(false);
  const parsed: unknown = JSON.parse(`{"__proto__": ${JSON.stringify(delta)}}`);
  expect(check(parsed).ok).toBe(false);
  const extra: unknown = JSON.parse(
    JSON.stringify(delta).replace('{', '{"__proto__":{"polluted":true},"constructor":1,'),
  );
  expect(check(extra).ok).toBe(true);
  expect(Reflect.get({}, 'polluted')).toBeUndefined();
});

test('names from outside find nothing that nobody defined', () => {
  for (const name of ['constructor', '__proto__', 'toString', '']) {
    expect(validateValue(name, name, name, delta).ok).toBe(false);
    expect(validateValue('tool.requests', name, 'tool.requests.v1', delta).ok).toBe(false);
  }
});

test('another version of the schema is refused', () => {
  expect(check(delta, 'assistant.delta', 'conversation.outbound.v2')).toMatchObject({ ok: false });
});

test('an event type of a later release passes where events are told, and is refused where orders are given', () => {
  expect(check({ turn_id: newId(), attempt: 1, news: true }, 'turn.celebrated').ok).toBe(true);
  expect(check({ news: true }, 'turn.celebrated').ok).toBe(false);
  expect(
    validateValue('tool.requests', 'tool.cancelled', 'tool.requests.v1', { call_id: 'x' }),
  ).toMatchObject({
    ok: false,
    errors: [{ message: 'unknown event type "tool.cancelled"' }],
  });
});

test('an instant must be one', () => {
  const request = {
    call_id: 'a'.repeat(32),
    turn_id: newId(),
    session_id: newId(),
    step: 0,
    attempt: 1,
    tool: 'echo',
    arguments: {},
    deadline_at: '2026-11-21T10:00:00.000Z',
    idempotency_key: 'k',
  };
  const of = (value: unknown) =>
    validateValue('tool.requests', 'tool.requested', 'tool.requests.v1', value).ok;
  expect(of(request)).toBe(true);
  expect(of({ ...request, deadline_at: '2026-02-30T10:00:00Z' })).toBe(false);
  expect(of({ ...request, deadline_at: 'soon' })).toBe(false);
  expect(of({ ...request, arguments: [] })).toBe(false);
});

test('a checked value is read with its type', () => {
  const read = readValue('conversation.outbound', 'assistant.delta', delta);
  expect(read?.text).toBe('Hello');
  expect(readValue('conversation.outbound', 'assistant.final', delta)).toBeUndefined();
});

test('a delta is checked in under 5 µs, also on a busy machine (about 0.2 µs alone)', () => {
  prepareValidators(['conversation.outbound']);
  const rounds = 50_000;
  const best = Math.min(
    ...Array.from({ length: 5 }, () => {
      const began = performance.now();
      for (let round = 0; round < rounds; round += 1) {
        check(delta);
      }
      return ((performance.now() - began) * 1_000) / rounds;
    }),
  );
  expect(best).toBeLessThan(5);
});
