import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import { fault } from '@signalbox/faults/fault';
import type { Handler, Values } from './handler.ts';

/** Answers with what it was given. */
const echo: Handler = { name: 'echo', run: async (input) => input };

/** Asks for input (`prompt`) and answers with it. */
const ask: Handler = {
  name: 'ask',
  async run(input, steps) {
    const { prompt } = input;
    if (typeof prompt !== 'string' || prompt === '') throw invalid('`prompt` must be a text');
    return { answer: await steps.input(prompt) };
  },
};

/** Children at most of one sequence. */
const maxChildren = 32;

/**
 * Runs child tasks one after the other: `tasks`, each `{target, input}`. A child gets the result of the one before as
 * `previous`, besides its own input. Fails with the first that does not complete.
 */
const sequence: Handler = {
  name: 'sequence',
  async run({ tasks }, steps) {
    if (!Array.isArray(tasks) || tasks.length === 0 || tasks.length > maxChildren) {
      throw invalid(`\`tasks\` must be a list of 1 to ${maxChildren}`);
    }
    const children = tasks.map(childOf);
    const results: Values[] = [];
    for (const [at, { target, input }] of children.entries()) {
      await steps.progress(`task ${at + 1} of ${children.length}`);
      const previous = results.at(-1);
      const ended = await steps.delegate(target, previous === undefined ? input : { ...input, previous });
      if (ended.status !== 'completed') {
        throw fault('CHILD_FAILED', `task ${at + 1} ${ended.status}: ${ended.error.message}`);
      }
      results.push(ended.result);
    }
    return { results };
  },
};

function childOf(given: unknown): { target: TaskTarget; input: Values } {
  if (!isValues(given)) throw invalid('each of `tasks` must be an object');
  const { target, input = {} } = given;
  if (!isValues(input)) throw invalid('`input` must be an object');
  return { target: targetOf(target), input };
}

function targetOf(given: unknown): TaskTarget {
  if (isValues(given)) {
    const { persona_id, handler } = given;
    if (isName(persona_id)) return { persona_id };
    if (isName(handler)) return { handler };
  }
  throw invalid('`target` must be {persona_id} or {handler}');
}

function isName(given: unknown): given is string {
  return typeof given === 'string' && given.length > 0 && given.length <= 128;
}

function isValues(given: unknown): given is Values {
  return typeof given === 'object' && given !== null && !Array.isArray(given);
}

function invalid(message: string) {
  return fault('VALIDATION_ERROR', message);
}

/** The handlers of the release. */
export const builtinHandlers: readonly Handler[] = [echo, ask, sequence];
