import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import { expect, it } from 'vitest';
import type { EndedState } from '../task-state.ts';
import { builtinHandlers } from './builtin-handlers.ts';
import type { Steps, Values } from './handler.ts';

/** Steps of a run that never waits: children end with `ends`, one after the other. */
function stepsWith(ends: readonly EndedState[] = [], answer: Values = {}) {
  const children: { target: TaskTarget; input: Values }[] = [];
  const steps: Steps = {
    signal: new AbortController().signal,
    run: (_name, work) => work({ idempotencyKey: 'key', signal: steps.signal, attempt: 1 }),
    input: async () => answer,
    async delegate(target, input) {
      children.push({ target, input });
      return ends[children.length - 1] ?? { status: 'completed', result: { at: children.length } };
    },
    progress: async () => undefined,
  };
  return { steps, children };
}

async function run(name: string, input: Values, steps: Steps = stepsWith().steps): Promise<Values> {
  const handler = builtinHandlers.find((each) => each.name === name);
  if (handler === undefined) throw new Error(`no handler ${name}`);
  return await handler.run(input, steps);
}

it('echo answers with what it was given, ask with what it was told', async () => {
  expect(await run('echo', { a: [1] })).toEqual({ a: [1] });
  const { steps } = stepsWith([], { text: 'this one' });
  expect(await run('ask', { prompt: 'which?' }, steps)).toEqual({ answer: { text: 'this one' } });
});

it('sequence hands each child the result of the one before, and nothing of it to the first', async () => {
  const { steps, children } = stepsWith();
  const tasks = [
    { target: { handler: 'echo' }, input: { a: 1 } },
    { target: { persona_id: 'helper', other: 1 } },
  ];
  expect(await run('sequence', { tasks }, steps)).toEqual({ results: [{ at: 1 }, { at: 2 }] });
  expect(children).toEqual([
    { target: { handler: 'echo' }, input: { a: 1 } },
    { target: { persona_id: 'helper' }, input: { previous: { at: 1 } } },
  ]);
});

it('sequence ends with the first child that does not complete', async () => {
  const { steps, children } = stepsWith([
    { status: 'expired', error: { error_code: 'TASK_EXPIRED', message: 'its deadline has passed' } },
  ]);
  const tasks = [{ target: { handler: 'a' } }, { target: { handler: 'b' } }];
  await expect(run('sequence', { tasks }, steps)).rejects.toMatchObject({
    code: 'CHILD_FAILED',
    message: 'task 1 expired: its deadline has passed',
  });
  expect(children).toHaveLength(1);
});

it.each([
  ['ask', {}],
  ['ask', { prompt: '' }],
  ['ask', { prompt: 1 }],
  ['sequence', {}],
  ['sequence', { tasks: [] }],
  ['sequence', { tasks: 'echo' }],
  ['sequence', { tasks: Array(33).fill({ target: { handler: 'echo' } }) }],
  ['sequence', { tasks: [1] }],
  ['sequence', { tasks: [{ target: {} }] }],
  ['sequence', { tasks: [{ target: { handler: 'x'.repeat(129) } }] }],
  ['sequence', { tasks: [{ target: { handler: 'echo' }, input: [] }] }],
])('%s says what it cannot use, and trying again is of no use: %j', async (name, input) => {
  await expect(run(name, input)).rejects.toMatchObject({ code: 'VALIDATION_ERROR', retryable: false });
});
