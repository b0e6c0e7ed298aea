import { whyNotKeepable } from '@signalbox/messaging/keepable-value';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import type { ModelToolCall } from '@signalbox/model/model-port';
import type { StreamRecord } from './answer-stream.ts';
import { type Delegation, delegatedTask, delegateToolName, taskId } from './delegate-tool.ts';
import { callId } from './operation-key.ts';
import { taskSubmitted } from './task-events.ts';
import {
  type CallToRequest,
  type TurnIdentity,
  toolRequested,
  toolResultShown,
  toolStarted,
} from './turn-events.ts';
import type { ToolInput, ToolOutcomeStored } from './turn-journal.ts';
import type { NewToolStep } from './turn-store.ts';

export interface ToolRound {
  readonly turn: TurnIdentity;
  readonly attempt: number;
  /** The step of the first call; the others follow. */
  readonly firstStep: number;
  readonly calls: readonly ModelToolCall[];
  readonly tools: readonly { readonly name: string; readonly timeoutMs: number }[];
  /** Undefined: this persona delegates nothing. */
  readonly delegation: Delegation | undefined;
  /** Added to a tool's own time limit: the way there and back, and the queue. */
  readonly toolWaitMs: number;
  /** What is left of the turn's time. */
  readonly leftMs: number;
  readonly nowMs: number;
}

const expiryNoticeMs = 2_000;
const toolNameForm = /^[A-Za-z0-9_.-]{1,64}$/;

export interface RequestedTools {
  readonly steps: readonly NewToolStep[];
  /** For the client, to be in the log before the round is stored. */
  readonly shown: readonly StreamRecord[];
  /** For the executor and for delegation-worker, in the transaction that stores the round. */
  readonly requests: readonly OutgoingMessage[];
}

/**
 * The tool steps of a round and what goes with them. A call that cannot be sent (no such tool for this persona, arguments
 * that are no JSON object, a task for somebody it may not delegate to) has its outcome at once and the model is told, as
 * of a tool that failed.
 *
 * tool.started is told by the holder of the lane, directly, before the requests are stored: once they are, the turn is
 * parked and nobody holds the lane. If they cannot be stored, the next attempt says turn.resumed and begins the round
 * again. For the same reason the executor's own reports of start and progress are not passed on.
 */
export function requestTools(round: ToolRound): RequestedTools {
  const { turn, attempt } = round;
  const steps: NewToolStep[] = [];
  const shown: StreamRecord[] = [];
  const requests: OutgoingMessage[] = [];
  for (const [at, call] of round.calls.entries()) {
    const step = round.firstStep + at;
    const tool = toolNameForm.test(call.name) ? call.name : 'unnamed';
    const args = argumentsOf(call.arguments);
    const input = { tool, model_call_id: call.id, arguments: typeof args === 'string' ? {} : args };
    const id = callId(turn.turnId, step, tool, input.arguments);
    const { waitMs, outcome, task, request } = wayOf(round, step, call.name, args, id, input);
    steps.push({ step, callId: id, input: task === undefined ? input : { ...input, task }, outcome, waitMs });
    shown.push(toolStarted(turn.turnId, attempt, { step, callId: id, input }));
    if (request !== undefined) requests.push(request);
    if (outcome !== undefined) {
      shown.push(toolResultShown(turn.turnId, attempt, { step, callId: id, tool }, outcome));
    }
  }
  return { steps, shown, requests };
}

interface WayOfCall {
  readonly waitMs: number;
  /** Known at once, of a call that is not sent. */
  readonly outcome?: ToolOutcomeStored;
  readonly task?: ToolInput['task'];
  readonly request?: OutgoingMessage;
}

/** Where a call goes: to the executor, to delegation-worker, or back. */
function wayOf(
  round: ToolRound,
  step: number,
  name: string,
  args: Readonly<Record<string, unknown>> | string,
  id: string,
  input: ToolInput,
): WayOfCall {
  const { turn, delegation } = round;
  const delegated = delegation !== undefined && name === delegateToolName;
  const known = round.tools.find((each) => each.name === name);
  if (known === undefined && !delegated) {
    return refusal('unknown_tool', 'TOOL_UNKNOWN', `there is no tool ${input.tool}`);
  }
  if (typeof args === 'string') return refusal('invalid_arguments', 'TOOL_INVALID_ARGUMENTS', args);
  if (delegated) return wayOfTask(round, step, args, id, delegation);
  const waitMs = bounded(round, (known?.timeoutMs ?? 0) + round.toolWaitMs);
  const call: CallToRequest = { step, callId: id, input };
  return { waitMs, request: toolRequested(turn, round.attempt, call, at(round, waitMs)) };
}

/** The task has until its deadline; the turn waits a little longer, for the word that it has expired. */
function wayOfTask(
  round: ToolRound,
  step: number,
  args: Readonly<Record<string, unknown>>,
  id: string,
  delegation: Delegation,
): WayOfCall {
  const wanted = delegatedTask(args, delegation);
  if ('refused' in wanted) return refusal(wanted.refused, wanted.code, wanted.message);
  const { target, input } = wanted;
  const task = { task_id: taskId(id), target };
  const { depth, parentTaskId, waitMs } = delegation;
  const request = taskSubmitted(round.turn, step, {
    ...{ ...task, input, depth, deadline_at: at(round, bounded(round, waitMs)), submitted_at: at(round, 0) },
    ...(parentTaskId === undefined ? {} : { parent_task_id: parentTaskId }),
  });
  return { waitMs: bounded(round, waitMs + expiryNoticeMs), task, request };
}

/** No wait is longer than the turn has. */
function bounded({ leftMs }: ToolRound, waitMs: number): number {
  return Math.max(0, Math.min(waitMs, leftMs));
}

function at({ nowMs }: ToolRound, afterMs: number): string {
  return new Date(nowMs + afterMs).toISOString();
}

function refusal(outcome: string, error_code: string, message: string): WayOfCall {
  return {
    waitMs: 0,
    outcome: { outcome, error_code, message, output: '', truncated: false, duration_ms: 0 },
  };
}

/**
 * The arguments that the model wrote, or what is wrong with them. Written as escapes they may hold what no row and no
 * record takes (NUL, half a surrogate pair), or be nested without bound: the model is told, the turn goes on.
 */
function argumentsOf(text: string): Readonly<Record<string, unknown>> | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return 'the arguments are not a JSON object';
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return 'the arguments are not a JSON object';
  }
  // They stand one level down in a request.
  const mistake = whyNotKeepable({ arguments: value }, Buffer.from(text));
  return mistake === undefined ? { ...value } : `the arguments cannot be taken: ${mistake}`;
}
