import { describe, expect, test } from 'vitest';
import { type Delegation, delegatedTask, delegateTool, taskId } from './delegate-tool.ts';
import { callId } from './operation-key.ts';
import { delegateTargets } from './persona-settings.ts';
import { requestTools } from './request-tools.ts';

const delegation: Delegation = {
  targets: [{ persona_id: 'researcher' }, { handler: 'count' }],
  ...{ depth: 1, maxDepth: 4, parentTaskId: undefined, waitMs: 1_000 },
};
const turn = { tenant: 'acme', sessionId: 's', turnId: 't', requestId: undefined, traceparent: undefined };
const round = (args: string, more: Partial<Delegation> = {}, leftMs = 60_000) =>
  requestTools({
    ...{ turn, attempt: 2, firstStep: 4, tools: [], toolWaitMs: 500, leftMs, nowMs: 0 },
    calls: [{ id: 'm', name: 'delegate', arguments: args }],
    delegation: { ...delegation, ...more },
  });
const asked = '{"persona_id":"researcher","message":"x"}';

describe('the tool', () => {
  test('names whom the persona may ask, and only the ways to ask that it has', () => {
    expect(delegateTool(delegation)?.parameters).toMatchObject({
      properties: {
        persona_id: { enum: ['researcher'] },
        message: {},
        handler: { enum: ['count'] },
        input: {},
      },
    });
    const one = delegateTool({ ...delegation, targets: [{ handler: 'count' }] });
    expect(Object.keys(one?.parameters.properties ?? {})).toEqual(['handler', 'input']);
  });

  test('is offered down to the deepest level, and where there is somebody to ask', () => {
    expect(delegateTool({ ...delegation, depth: 4 })).toBeDefined();
    expect(delegateTool({ ...delegation, depth: 5 })).toBeUndefined();
    expect(delegateTool({ ...delegation, targets: [] })).toBeUndefined();
  });

  test('has the targets of a persona that are of their form', () => {
    const column = [{ persona_id: 'a' }, { handler: 'b', x: 1 }, { persona_id: '' }, 'c', { handler: 7 }];
    expect(delegateTargets(column)).toEqual([{ persona_id: 'a' }, { handler: 'b' }]);
    expect(delegateTargets(undefined)).toEqual([]);
  });
});

describe('a call of it', () => {
  test('is a task under the key of its step, with the deadline; the turn waits a moment longer', () => {
    const { steps, shown, requests } = round(asked, { parentTaskId: 'p' });
    const key = callId('t', 4, 'delegate', JSON.parse(asked));
    const target = { persona_id: 'researcher' };
    expect(steps).toMatchObject([
      { callId: key, outcome: undefined, waitMs: 3_000, input: { task: { task_id: taskId(key), target } } },
    ]);
    expect(shown.map(({ eventType }) => eventType)).toEqual(['tool.started']);
    expect(requests).toMatchObject([
      {
        ...{ topic: 'delegation.tasks', key: `acme:${taskId(key)}`, eventType: 'task.submitted' },
        value: {
          ...{ target, input: { message: 'x' }, depth: 1, parent_task_id: 'p', origin: { step: 4 } },
          ...{ submitted_at: '1970-01-01T00:00:00.000Z', deadline_at: '1970-01-01T00:00:01.000Z' },
        },
      },
    ]);
  });

  test('waits no longer than the turn has, and its task neither', () => {
    const { steps, requests } = round(asked, {}, 200);
    expect(steps[0]?.waitMs).toBe(200);
    expect(requests[0]?.value).toMatchObject({ deadline_at: '1970-01-01T00:00:00.200Z' });
  });

  test.each([
    ['{"persona_id":"boss","message":"x"}', {}, 'invalid_arguments'],
    ['{"persona_id":"researcher","handler":"count"}', {}, 'invalid_arguments'],
    ['{"persona_id":"researcher","message":" "}', {}, 'invalid_arguments'],
    ['{"handler":"count","input":[]}', {}, 'invalid_arguments'],
    ['[]', {}, 'invalid_arguments'],
    [asked, { depth: 5 }, 'error'],
  ])('%s %j is answered here', (args, more, outcome) => {
    const { steps, requests } = round(args, more);
    expect(steps[0]?.outcome?.outcome).toBe(outcome);
    expect(requests).toEqual([]);
  });

  test.each([
    ['NUL', '"\\u0000"', 'a text holds NUL'],
    ['half a pair', '{"\\ud83d":1}', 'a text holds a lone surrogate'],
    ['no number', '1e999', 'a number is no finite double'],
    ['80 levels', `${'['.repeat(80)}${']'.repeat(80)}`, 'it is nested deeper than 64'],
    ['20 000 levels', `${'['.repeat(20_000)}${']'.repeat(20_000)}`, 'it is nested deeper than 64'],
  ])('with what no record takes is answered here, and nothing of it is stored: %s', (_what, written, why) => {
    const { steps, requests } = round(`{"handler":"count","input":{"a":${written}}}`);
    expect(steps).toMatchObject([
      {
        ...{ input: { arguments: {} }, waitMs: 0 },
        outcome: { outcome: 'invalid_arguments', message: `the arguments cannot be taken: ${why}` },
      },
    ]);
    expect(requests).toEqual([]);
  });

  test('without input gives a program an empty one', () => {
    expect(delegatedTask({ handler: 'count' }, delegation)).toEqual({
      target: { handler: 'count' },
      input: {},
    });
  });
});
