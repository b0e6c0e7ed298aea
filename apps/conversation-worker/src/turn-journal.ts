import type { TaskTarget } from '@signalbox/contracts/delegation-tasks';
import type { ModelMessage, ModelToolCall } from '@signalbox/model/model-port';
import { countCodePoints } from './code-points.ts';
import type { Recall } from './recall.ts';

/**
 * The journal of a turn: its steps in order, each with an operation key that was stored before the step's first try and
 * an outcome that was stored when it had one.
 *
 *   model step ──► tool steps of its round ──► model step ──► … ──► model step without calls
 *
 * A model step without an outcome is open: it is the one to run, now or again. A tool step without one is waited for,
 * and the turn is parked meanwhile. A step with an outcome is never run again, whoever holds the turn.
 */
export type Step = ModelStep | ToolStep;

export interface ModelStep {
  readonly kind: 'model';
  readonly step: number;
  readonly operationKey: string;
  readonly outcome: ModelOutcome | null;
}

/** What a model call gave: the text is exactly what its deltas said. */
export interface ModelOutcome {
  readonly text: string;
  readonly thinking_length: number;
  readonly calls: readonly ModelToolCall[];
  readonly end: string;
  readonly model: string;
  readonly input_tokens: number;
  readonly output_tokens: number;
  /** Of the first one, where the persona recalls: what all model calls of the turn are given. */
  readonly recall?: Recall;
}

export interface ToolStep {
  readonly kind: 'tool';
  readonly step: number;
  /** The call_id. */
  readonly operationKey: string;
  readonly input: ToolInput;
  readonly outcome: ToolOutcomeStored | null;
}

export interface ToolInput {
  readonly tool: string;
  /** The id the model gave the call; it wants it back beside the result. */
  readonly model_call_id: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  /** Of a call that is a task for somebody else; nothing is asked of the executor then. */
  readonly task?: { readonly task_id: string; readonly target: TaskTarget };
}

export interface ToolOutcomeStored {
  readonly outcome: string;
  readonly output: string;
  readonly truncated: boolean;
  readonly duration_ms: number;
  readonly error_code?: string;
  readonly message?: string;
}

/** What the finished steps of a turn come to. */
export interface JournalSummary {
  /** The answer so far: the text of the finished model steps, joined. */
  readonly text: string;
  readonly textLength: number;
  readonly thinkingLength: number;
  readonly rounds: number;
  readonly toolCalls: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** The model that gave the last outcome. */
  readonly model: string | undefined;
  readonly recall: Recall | undefined;
  /** What the model is shown of this turn, after the message itself. */
  readonly messages: readonly ModelMessage[];
}

export function summarize(steps: readonly Step[]): JournalSummary {
  let text = '';
  let thinkingLength = 0;
  let rounds = 0;
  let toolCalls = 0;
  let inputTokens = 0;
  let outputTokens = 0;
  let model: string | undefined;
  let recall: Recall | undefined;
  const messages: ModelMessage[] = [];
  for (const step of steps) {
    if (step.kind === 'tool') {
      toolCalls++;
      if (step.outcome !== null) messages.push(toolMessage(step.input, step.outcome));
      continue;
    }
    if (step.outcome === null) continue;
    const { outcome } = step;
    rounds++;
    text += outcome.text;
    thinkingLength = outcome.thinking_length;
    inputTokens += outcome.input_tokens;
    outputTokens += outcome.output_tokens;
    model = outcome.model;
    recall ??= outcome.recall;
    messages.push({ role: 'assistant', text: outcome.text, toolCalls: outcome.calls });
  }
  const textLength = countCodePoints(text);
  const counts = { rounds, toolCalls, inputTokens, outputTokens };
  return { text, textLength, thinkingLength, ...counts, model, recall, messages };
}

function toolMessage(input: ToolInput, outcome: ToolOutcomeStored): ModelMessage {
  const failed = outcome.outcome !== 'ok';
  const text = failed ? `[${outcome.outcome}] ${outcome.message ?? outcome.output}` : outcome.output;
  const cut = outcome.truncated ? `${text}\n[cut: the output was longer]` : text;
  return { role: 'tool', callId: input.model_call_id, text: cut, failed };
}

/** The step after the last. */
export function nextStep(steps: readonly Step[]): number {
  return (steps.at(-1)?.step ?? -1) + 1;
}
