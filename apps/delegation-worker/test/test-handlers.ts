import { appendFileSync, readFileSync } from 'node:fs';
import { fault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import { builtinHandlers } from '../src/handlers/builtin-handlers.ts';
import type { Handler, Steps, Values } from '../src/handlers/handler.ts';

const text = (given: unknown): string => (typeof given === 'string' ? given : '');
const count = (given: unknown): number => (typeof given === 'number' ? given : 0);

/** Leaves a line with the step's name, key and process, then takes its time. */
async function noted(steps: Steps, name: string, { file, ms }: Values): Promise<Values> {
  return await steps.run(name, async ({ idempotencyKey, attempt, signal }) => {
    appendFileSync(text(file), `${name} ${idempotencyKey} ${process.pid} ${attempt}\n`);
    await pause(count(ms), signal);
    signal.throwIfAborted();
    return { name, at: Date.now() };
  });
}

/** `file`, `ms`: three steps that each leave a line. The `after`th step is followed by a pause of `wait` ms in the handler. */
const threeSteps: Handler = {
  name: 'three_steps',
  async run(input, steps) {
    const done: Values[] = [];
    for (const name of ['one', 'two', 'three']) {
      done.push(await noted(steps, name, input));
      if (input.after === name) await pause(count(input.wait), steps.signal);
    }
    return { done };
  },
};

/** Runs until it is told to end. */
const slow: Handler = {
  name: 'slow',
  async run({ file, deaf }, steps) {
    if (text(file) !== '') appendFileSync(text(file), `${process.pid}\n`);
    await steps.progress('it runs');
    await new Promise<void>((resolve) => {
      if (deaf !== true) steps.signal.addEventListener('abort', () => resolve(), { once: true });
    });
    return {};
  },
};

/** Fails so often, then completes; `file` counts. */
const flaky: Handler = {
  name: 'flaky',
  async run(input, steps) {
    const { file, times, code } = input;
    const prepared = await noted(steps, 'prepare', { ...input, ms: 0 });
    appendFileSync(text(file), 'try\n');
    const tries = readFileSync(text(file), 'utf8')
      .split('\n')
      .filter((line) => line === 'try').length;
    if (tries <= count(times)) {
      throw code === 'final' ? fault('VALIDATION_ERROR', 'of no\u0000use') : new Error('not this time');
    }
    return { tries, prepared };
  },
};

/** Delegates to itself, one level less each time; the last one does `last`. */
const nest: Handler = {
  name: 'nest',
  async run(input, steps) {
    const levels = count(input.levels);
    const { last } = input;
    const child = await steps.delegate(
      { handler: levels > 1 ? 'nest' : text(last) },
      levels > 1 ? { ...input, levels: levels - 1 } : {},
    );
    return { child: { ...child } };
  },
};

/** Catches whatever its steps throw and goes on: nothing may come of it. */
const catching: Handler = {
  name: 'catching',
  async run(_input, steps) {
    const answers: unknown[] = [];
    for (const prompt of ['first?', 'second?']) {
      try {
        answers.push(await steps.input(prompt));
      } catch (error) {
        answers.push(String(error));
      }
    }
    return { answers };
  },
};

export const testHandlers: readonly Handler[] = [...builtinHandlers, threeSteps, slow, flaky, nest, catching];
