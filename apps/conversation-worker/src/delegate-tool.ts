import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { ModelTool } from '@signalbox/model/model-port';

/** The name under which a model gives somebody else a task. */
export const delegateToolName = 'delegate';

/** What a persona's turn may delegate. */
export interface Delegation {
  readonly targets: readonly TaskTarget[];
  /** Of the tasks that it makes: 0 in a conversation, one more than its own in a turn that carries out a task. */
  readonly depth: number;
  readonly maxDepth: number;
  /** The task that the turn carries out, if it does. */
  readonly parentTaskId: string | undefined;
  /** How long a task may take. */
  readonly waitMs: number;
}

/** The tool as the model is told of it; undefined where nothing may be delegated, or not from so deep. */
export function delegateTool({ targets, depth, maxDepth }: Delegation): ModelTool | undefined {
  if (targets.length === 0 || depth > maxDepth) return undefined;
  const personas = targets.flatMap((target) => ('persona_id' in target ? [target.persona_id] : []));
  const handlers = targets.flatMap((target) => ('handler' in target ? [target.handler] : []));
  const properties: Record<string, unknown> = {};
  if (personas.length > 0) {
    properties.persona_id = { type: 'string', enum: personas, description: 'Who is to do it.' };
    properties.message = { type: 'string', description: 'What the persona is asked; it knows nothing else.' };
  }
  if (handlers.length > 0) {
    properties.handler = { type: 'string', enum: handlers, description: 'Which program is to do it.' };
    properties.input = { type: 'object', description: 'What the program is given.' };
  }
  const whom = [
    ...(personas.length > 0 ? ['a persona (persona_id, message)'] : []),
    ...(handlers.length > 0 ? ['a program (handler, input)'] : []),
  ];
  return {
    name: delegateToolName,
    description: `Gives a task to ${whom.join(' or ')} and answers with its result.`,
    parameters: { type: 'object', properties },
  };
}

/** What a call of the tool asks for, or why it cannot be done. */
export type DelegatedTask =
  | { readonly target: TaskTarget; readonly input: Readonly<Record<string, unknown>> }
  | { readonly refused: 'error' | 'invalid_arguments'; readonly code: string; readonly message: string };

export function delegatedTask(
  args: Readonly<Record<string, unknown>>,
  delegation: Delegation,
): DelegatedTask {
  const { targets, depth, maxDepth } = delegation;
  if (depth > maxDepth) {
    return {
      refused: 'error',
      code: 'DEPTH_LIMIT',
      message: `tasks are delegated no more than ${maxDepth} deep`,
    };
  }
  const { persona_id, handler, message, input = {} } = args;
  if ((persona_id === undefined) === (handler === undefined)) {
    return invalid('one of persona_id and handler says who is to do it');
  }
  const target = targets.find((each) =>
    'persona_id' in each ? each.persona_id === persona_id : each.handler === handler,
  );
  if (target === undefined) return invalid('nothing may be delegated to it');
  if ('persona_id' in target) {
    if (typeof message !== 'string' || message.trim() === '') return invalid('a persona needs a message');
    return { target, input: { message } };
  }
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    return invalid('input is not an object');
  }
  return { target, input: { ...input } };
}

function invalid(message: string): DelegatedTask {
  return { refused: 'invalid_arguments', code: 'TOOL_INVALID_ARGUMENTS', message };
}

/** A task's id is the operation key of its step, so that it is one task however often the turn is taken over. */
export function taskId(callId: string): string {
  return `${callId.slice(0, 8)}-${callId.slice(8, 12)}-${callId.slice(12, 16)}-${callId.slice(16, 20)}-${callId.slice(20)}`;
}

/** The operation key of the step that made a task. */
export function callIdOf(task: string): string {
  return task.replaceAll('-', '');
}
