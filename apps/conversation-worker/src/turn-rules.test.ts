import { describe, expect, test } from 'vitest';
import { cleanText, countCodePoints, cutBefore } from './code-points.ts';
import { conversationOf, estimateTokens, turnTokens } from './history-window.ts';
import { callId, canonicalJson } from './operation-key.ts';
import { requestTools } from './request-tools.ts';
import { nextStep, type Step, summarize } from './turn-journal.ts';
import { afterRound, limitsOf, type TurnLimits } from './turn-limits.ts';

const limits: TurnLimits = {
  maxRounds: 3,
  maxToolCalls: 4,
  maxOutputTokens: 100,
  maxTurnMs: 1_000,
  historyTokens: 50,
};

const model = (step: number, text: string, calls: string[] = []): Step => ({
  kind: 'model',
  step,
  operationKey: `key${step}`,
  outcome: {
    text,
    thinking_length: 2,
    calls: calls.map((name, at) => ({ id: `${name}${at}`, name, arguments: '{}' })),
    end: calls.length > 0 ? 'tool_calls' : 'stop',
    model: 'm',
    input_tokens: 10,
    output_tokens: 20,
  },
});
const tool = (step: number, outcome: string | null, output = ''): Step => ({
  kind: 'tool',
  step,
  operationKey: `call${step}`,
  input: { tool: 'echo', model_call_id: `m${step}`, arguments: {} },
  outcome:
    outcome === null ? null : { outcome, output, truncated: outcome === 'output_limit', duration_ms: 1 },
});

describe('the journal', () => {
  test('comes to text, counts and the messages for the model', () => {
    const steps = [
      model(0, 'a𝄞', ['echo', 'echo']),
      tool(1, 'ok', 'x'),
      tool(2, 'output_limit', 'y'),
      model(3, 'b'),
    ];
    const summary = summarize(steps);
    expect(summary).toMatchObject({
      ...{ text: 'a𝄞b', textLength: 3, thinkingLength: 2, rounds: 2, toolCalls: 2 },
      ...{ inputTokens: 20, outputTokens: 40, model: 'm' },
    });
    expect(summary.messages.map(({ role, text }) => [role, text])).toEqual([
      ['assistant', 'a𝄞'],
      ['tool', 'x'],
      ['tool', '[output_limit] y\n[cut: the output was longer]'],
      ['assistant', 'b'],
    ]);
    expect(nextStep(steps)).toBe(4);
    expect(nextStep([])).toBe(0);
  });

  test('an open step counts for nothing', () => {
    expect(summarize([{ kind: 'model', step: 0, operationKey: 'k', outcome: null }]).rounds).toBe(0);
    expect(summarize([tool(1, null)]).messages).toEqual([]);
  });
});

describe('limits', () => {
  test('a persona sets its own; what is no whole number from 1 on is left out', () => {
    const given = { max_rounds: 9, max_tool_calls: 0, max_output_tokens: '5', history_tokens: 1.5, other: 1 };
    expect(limitsOf(given, limits)).toEqual({ ...limits, maxRounds: 9 });
  });

  test.each([
    ['the model is done', 'stop', 0, {}, { next: 'end', reason: 'stop' }],
    [
      'the answer is whole whatever it used',
      'stop',
      0,
      { rounds: 9, outputTokens: 999 },
      { next: 'end', reason: 'stop' },
    ],
    ['the filter struck', 'content_filter', 0, {}, { next: 'end', reason: 'content_filter' }],
    ['the length is used up', 'length', 0, {}, { next: 'end', reason: 'max_tokens' }],
    ['another round is allowed', 'tool_calls', 2, { rounds: 2 }, { next: 'call_tools' }],
    ['it was the last round', 'tool_calls', 1, { rounds: 3 }, { next: 'end', reason: 'max_rounds' }],
    ['the calls are too many', 'tool_calls', 3, { toolCalls: 2 }, { next: 'end', reason: 'max_tool_calls' }],
    ['the calls just fit', 'tool_calls', 2, { toolCalls: 2 }, { next: 'call_tools' }],
    [
      'no token is left for the answer',
      'tool_calls',
      1,
      { outputTokens: 100 },
      { next: 'end', reason: 'max_tokens' },
    ],
  ] as const)('%s', (_, end, wanted, used, expected) => {
    const summary = { ...summarize([]), rounds: 1, ...used };
    expect(afterRound(summary, end, wanted, limits)).toEqual(expected);
  });
});

describe('operation keys', () => {
  test('do not depend on the order of fields or on white space, but on everything else', () => {
    expect(canonicalJson({ b: [1, { d: null, c: 'x' }], a: undefined })).toBe('{"b":[1,{"c":"x","d":null}]}');
    const key = callId('turn', 1, 'echo', { a: 1, b: 2 });
    expect(key).toMatch(/^[0-9a-f]{32}$/);
    expect(callId('turn', 1, 'echo', { b: 2, a: 1 })).toBe(key);
    for (const other of [
      callId('turn2', 1, 'echo', { a: 1, b: 2 }),
      callId('turn', 2, 'echo', { a: 1, b: 2 }),
      callId('turn', 1, 'echo2', { a: 1, b: 2 }),
      callId('turn', 1, 'echo', { a: 1, b: '2' }),
    ]) {
      expect(other).not.toBe(key);
    }
  });
});

describe('a round of tools', () => {
  const turn = { tenant: 'acme', sessionId: 's', turnId: 't', requestId: undefined, traceparent: undefined };
  const round = (name: string, args: string) =>
    requestTools({
      ...{ turn, attempt: 2, firstStep: 4, tools: [{ name: 'echo', timeoutMs: 1_000 }], toolWaitMs: 500 },
      ...{ calls: [{ id: 'm', name, arguments: args }], leftMs: 60_000, nowMs: 0 },
      delegation: undefined,
    });

  test('requests what can be sent, with the deadline', () => {
    const { steps, shown, requests } = round('echo', '{"text":"x"}');
    expect(steps).toMatchObject([
      { step: 4, outcome: undefined, waitMs: 1_500, input: { arguments: { text: 'x' } } },
    ]);
    expect(shown.map(({ eventType }) => eventType)).toEqual(['tool.started']);
    expect(requests).toHaveLength(1);
    expect(requests[0]?.value).toMatchObject({ deadline_at: '1970-01-01T00:00:01.500Z', attempt: 2 });
  });

  test.each([
    ['nobody has', '{}', 'unknown_tool'],
    ['echo', '[1]', 'invalid_arguments'],
    ['echo', '{"te', 'invalid_arguments'],
    ['not a name at all!', '{}', 'unknown_tool'],
  ])('%s %s is answered here', (name, args, outcome) => {
    const { steps, shown, requests } = round(name, args);
    expect(steps[0]?.outcome?.outcome).toBe(outcome);
    expect(shown.map(({ eventType }) => eventType)).toEqual(['tool.started', 'tool.result']);
    expect(requests).toEqual([]);
  });

  test('waits no longer than the turn has', () => {
    const { steps } = requestTools({
      ...{ turn, attempt: 1, firstStep: 1, tools: [{ name: 'echo', timeoutMs: 1_000 }], toolWaitMs: 500 },
      ...{ calls: [{ id: 'm', name: 'echo', arguments: '{}' }], leftMs: -3, nowMs: 0 },
      delegation: undefined,
    });
    expect(steps[0]?.waitMs).toBe(0);
  });
});

describe('text and tokens', () => {
  test('code points', () => {
    expect(countCodePoints('a𝄞é')).toBe(3);
    expect(cutBefore('a𝄞', 2)).toBe(1);
    expect(cutBefore('a𝄞', 3)).toBe(3);
    expect(cleanText('a\ud834\u0000')).toBe('a\ufffd\ufffd');
  });

  test('tokens are estimated by bytes, a turn with its calls', () => {
    expect(estimateTokens('abcdefgh')).toBe(2);
    expect(estimateTokens('日本')).toBe(2);
    const calls = [{ id: 'x', name: 'echo', arguments: '{"a":1}' }];
    expect(turnTokens([{ role: 'assistant', text: '', toolCalls: calls }])).toBeGreaterThan(
      turnTokens([{ role: 'user', text: '' }]),
    );
  });

  test('the model sees the window, the message and what it led to', () => {
    const before = { seq: 1, messages: [{ role: 'user' as const, text: 'old' }] };
    expect(conversationOf([before], 'new', []).map(({ text }) => text)).toEqual(['old', 'new']);
  });
});
