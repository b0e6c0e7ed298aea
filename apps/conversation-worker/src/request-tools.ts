import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import type { ModelToolCall } from '@signalbox/model/model-port';
import type { StreamRecord } from './answer-stream.ts';
import { callId } from './operation-key.ts';
import { type TurnIdentity, toolRequested, toolResultShown, toolStarted } from './turn-events.ts';
import type { ToolOutcomeStored } from './turn-journal.ts';
import type { NewToolStep } from './turn-store.ts';

export interface ToolRound {
  readonly turn: TurnIdentity;
  readonly attempt: number;
  /** The step of the first call; the others follow. */
  readonly firstStep: number;
  readonly calls: readonly ModelToolCall[];
  readonly tools: readonly { readonly name: string; readonly timeoutMs: number }[];
  /** Added to a tool's own time limit: the way there and back, and the queue. */
  readonly toolWaitMs: number;
  /** What is left of the turn's time. */
  readonly leftMs: number;
  readonly nowMs: number;
}

const toolNameForm = /^[A-Za-z0-9_.-]{1,64}$/;

export interface RequestedTools {
  readonly steps: readonly NewToolStep[];
  /** For the client, to be in the log before the round is stored. */
  readonly shown: readonly StreamRecord[];
  /** For the executor, in the transaction that stores the round. */
  readonly requests: readonly OutgoingMessage[];
}

/**
 * The tool steps of a round and what goes with them. A call that cannot be sent (no such tool for this persona, arguments
 * that are no JSON object) has its outcome at once and the model is told, as of a tool that failed.
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
    const known = round.tools.find(({ name }) => name === call.name);
    const args = argumentsOf(call.arguments);
    const tool = toolNameForm.test(call.name) ? call.name : 'unnamed';
    const input = { tool, model_call_id: call.id, arguments: args ?? {} };
    const id = callId(turn.turnId, step, tool, input.arguments);
    const waitMs = Math.max(0, Math.min((known?.timeoutMs ?? 0) + round.toolWaitMs, round.leftMs));
    const request = { step, callId: id, input, deadlineAt: new Date(round.nowMs + waitMs).toISOString() };
    shown.push(toolStarted(turn.turnId, attempt, request));
    const outcome =
      known === undefined
        ? refusal('unknown_tool', 'TOOL_UNKNOWN', `there is no tool ${tool}`)
        : args === undefined
          ? refusal('invalid_arguments', 'TOOL_INVALID_ARGUMENTS', 'the arguments are not a JSON object')
          : undefined;
    steps.push({ step, callId: id, input, outcome, waitMs });
    if (outcome === undefined) requests.push(toolRequested(turn, attempt, request));
    else shown.push(toolResultShown(turn.turnId, attempt, { step, callId: id, tool }, outcome));
  }
  return { steps, shown, requests };
}

function refusal(outcome: string, error_code: string, message: string): ToolOutcomeStored {
  return { outcome, error_code, message, output: '', truncated: false, duration_ms: 0 };
}

/** The arguments that the model wrote, if they are a JSON object. */
function argumentsOf(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
