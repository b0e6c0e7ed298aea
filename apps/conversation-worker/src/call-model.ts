import type { Model, ModelEnd, ModelRequest, ModelToolCall } from '@signalbox/model/model-port';
import { withSpan } from '@signalbox/telemetry/trace';
import type { AnswerStream } from './answer-stream.ts';
import { cleanText } from './code-points.ts';
import { estimateTokens, turnTokens } from './history-window.ts';
import type { ModelOutcome } from './turn-journal.ts';

export interface ModelCall {
  readonly model: Model;
  readonly request: ModelRequest;
  /** Where its text goes as it comes. */
  readonly answer: AnswerStream;
  /** Aborts the call and closes its connection. */
  readonly signal: AbortSignal;
  /** These abort it too, but then what came so far is the outcome. */
  readonly timeUp: AbortSignal;
  readonly cancelled: AbortSignal;
  readonly attributes: Readonly<Record<string, string | number>>;
  onFirstToken(): void;
}

export interface ModelRound {
  readonly outcome: ModelOutcome;
  readonly end: ModelEnd | 'max_turn_time' | 'cancelled';
}

/**
 * One model call: streams its text into the answer and resolves with the outcome for the journal, whose text is exactly
 * what the deltas say; the caller drains the answer before it stores that. Throws the model's fault, the fault of a delta
 * that could not be sent, or the signal's reason.
 */
export function callModel(call: ModelCall): Promise<ModelRound> {
  return withSpan('model.call', { kind: 'client', attributes: call.attributes }, async (span) => {
    const { request, answer, timeUp, cancelled } = call;
    const signal = AbortSignal.any([call.signal, timeUp, cancelled]);
    const textFrom = answer.text.length;
    const calls: ModelToolCall[] = [];
    let end: ModelRound['end'] = 'stop';
    let model = '';
    let usage: { inputTokens: number; outputTokens: number } | undefined;
    let first = true;
    try {
      for await (const event of call.model.stream(request, signal)) {
        if (first && (event.type === 'text' || event.type === 'thinking' || event.type === 'tool_call')) {
          first = false;
          call.onFirstToken();
        }
        switch (event.type) {
          case 'text':
            answer.push('assistant.delta', event.text);
            break;
          case 'thinking':
            answer.push('assistant.thinking', event.text);
            break;
          case 'tool_call':
            calls.push({
              id: cleanText(event.id),
              name: cleanText(event.name),
              arguments: cleanText(event.arguments),
            });
            break;
          case 'usage':
            usage = event;
            break;
          case 'served':
            model = event.model;
            span.setAttributes({ 'gen_ai.response.model': model, 'signalbox.model_profile': event.profile });
            break;
          case 'end':
            end = event.reason;
            break;
        }
      }
    } catch (error) {
      if (call.signal.aborted || !(timeUp.aborted || cancelled.aborted)) throw error;
      end = cancelled.aborted ? 'cancelled' : 'max_turn_time';
    }
    answer.flush();
    const text = answer.text.slice(textFrom);
    // An endpoint that tells no usage, or was stopped before it could, is counted by estimate.
    const inputTokens = usage?.inputTokens ?? estimateTokens(request.system) + turnTokens(request.messages);
    const outputTokens = usage?.outputTokens ?? estimateTokens(text);
    span.setAttributes({
      'gen_ai.usage.input_tokens': inputTokens,
      'gen_ai.usage.output_tokens': outputTokens,
      'signalbox.end': end,
    });
    return {
      end,
      outcome: {
        text,
        thinking_length: answer.thinkingLength,
        calls: end === 'tool_calls' ? calls : [],
        end,
        model,
        input_tokens: inputTokens,
        output_tokens: outputTokens,
      },
    };
  });
}
