import { newId } from '@signalbox/contracts/ids';
import type { MemoryWriteRequested } from '@signalbox/contracts/memory-writes';
import { validateValue } from '@signalbox/contracts/validate';
import { expect, test } from 'vitest';
import { type FinishedTurn, memoriesOf } from './memory-writes.ts';
import { memorySettings } from './persona-settings.ts';

const all = memorySettings({ write: ['user', 'assistant', 'tool'] });
const turn = {
  ...{ tenant: 'acme', sessionId: newId(), turnId: newId(), requestId: undefined, traceparent: undefined },
};
const tool = (step: number, outcome: string, output: string): FinishedTurn['steps'][number] => ({
  ...{ kind: 'tool', step, operationKey: `call${step}`, finished_ms: 2_000 },
  input: { tool: 'echo', model_call_id: 'm', arguments: {} },
  outcome: { outcome, output, truncated: false, duration_ms: 1 },
});
const ended = (more: Partial<FinishedTurn>): FinishedTurn => ({
  ...{
    turn,
    personaId: 'p',
    message: 'hi',
    postedAtMs: 1_000,
    answer: 'hello',
    endedAtMs: 3_000,
    steps: [],
    ...more,
  },
});
const textsOf = (message: ReturnType<typeof memoriesOf>) => {
  const { memories } = (message?.value ?? { memories: [] }) as MemoryWriteRequested;
  return memories.map(({ text }) => text);
};

test('nothing is sent where the persona remembers nothing, or there is nothing to say', () => {
  expect(memoriesOf(ended({}), memorySettings({ recall: true }))).toBeUndefined();
  expect(memoriesOf(ended({ answer: ' ' }), memorySettings({ write: ['assistant'] }))).toBeUndefined();
});

test('tools count when they were ok; the same from two at one moment is one memory', () => {
  const steps = [tool(1, 'ok', 'x'), tool(2, 'error', 'y'), tool(3, 'ok', 'x'), tool(4, 'ok', '')];
  expect(textsOf(memoriesOf(ended({ steps }), all))).toEqual(['hi', 'hello', 'x']);
});

test('the record is bounded in items and bytes, and of its schema, whatever a turn has said', () => {
  const many = Array.from({ length: 100 }, (_, at) => tool(at, 'ok', `output ${at}`));
  expect(textsOf(memoriesOf(ended({ steps: many }), all))).toHaveLength(64);
  const long = Array.from({ length: 60 }, (_, at) => tool(at, 'ok', `${at}${'語\u0000𝄞'.repeat(9_000)}`));
  const message = memoriesOf(ended({ steps: long }), all);
  const value = JSON.parse(JSON.stringify(message?.value));
  expect(Buffer.byteLength(JSON.stringify(value))).toBeLessThan(500_000);
  expect(textsOf(message).every((text) => text.isWellFormed() && !text.includes('\u0000'))).toBe(true);
  const checked = validateValue('memory.writes', 'memory.write_requested', message?.schema ?? '', value);
  expect(checked).toMatchObject({ ok: true });
});

test('texts count as they stand in the record: what is escaped there takes up to six times its bytes', () => {
  const steps = Array.from({ length: 40 }, (_, at) => tool(at, 'ok', `${at}${'\u001b'.repeat(8_000)}`));
  const message = memoriesOf(ended({ message: 'h\u0007'.repeat(8_000), steps }), all);
  expect(Buffer.byteLength(JSON.stringify(message?.value))).toBeLessThan(500_000);
});
