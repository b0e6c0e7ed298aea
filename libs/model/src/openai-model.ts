import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import OpenAI from 'openai';
import type {
  ChatCompletionChunk,
  ChatCompletionCreateParamsStreaming,
  ChatCompletionMessageParam,
} from 'openai/resources/chat/completions';
import { modelFault, streamFailure } from './model-faults.ts';
import type { Model, ModelEnd, ModelEvent, ModelMessage, ModelRequest } from './model-port.ts';

export interface OpenAiModelOptions {
  /** Where `/chat/completions` is, with the version: `https://api.openai.com/v1`. */
  readonly baseUrl: string;
  readonly apiKey: string;
  readonly model: string;
  /** Until the first byte of the answer, waiting for a free connection included. */
  readonly timeoutMs: number;
  readonly http: BoundedFetch;
}

/** A model behind an OpenAI-compatible chat completions endpoint. No retry in here: that is resilient-model's. */
export function createOpenAiModel(options: OpenAiModelOptions): Model {
  const client = new OpenAI({
    baseURL: options.baseUrl,
    // An endpoint without keys (a local one) still wants the header: the client refuses to start without.
    apiKey: options.apiKey === '' ? 'none' : options.apiKey,
    organization: null,
    project: null,
    timeout: options.timeoutMs,
    maxRetries: 0,
    logLevel: 'off',
    fetch: options.http.fetch,
  });
  const atOpenAi = new URL(options.baseUrl).hostname === 'api.openai.com';
  return {
    async *stream(request, signal) {
      signal.throwIfAborted();
      const body = requestBody(request, options.model, atOpenAi);
      try {
        yield* readChunks(await client.chat.completions.create(body, { signal }));
      } catch (error) {
        signal.throwIfAborted();
        if (isContentFilter(error)) {
          yield { type: 'end', reason: 'content_filter' };
          return;
        }
        throw failureOf(error);
      }
    },
  };
}

interface CallParts {
  id: string;
  name: string;
  arguments: string;
}

async function* readChunks(chunks: AsyncIterable<ChatCompletionChunk>): AsyncGenerator<ModelEvent> {
  const calls = new Map<number, CallParts>();
  let finish: string | undefined;
  for await (const chunk of chunks) {
    const choice = chunk.choices?.[0];
    if (choice !== undefined) {
      const { delta } = choice;
      const thinking = thinkingOf(delta);
      if (thinking !== undefined) yield { type: 'thinking', text: thinking };
      const text = delta?.content ?? delta?.refusal;
      if (typeof text === 'string' && text !== '') yield { type: 'text', text };
      for (const part of delta?.tool_calls ?? []) addPart(calls, part);
      finish = choice.finish_reason ?? finish;
    }
    if (chunk.usage) {
      const { prompt_tokens, completion_tokens } = chunk.usage;
      yield { type: 'usage', inputTokens: prompt_tokens, outputTokens: completion_tokens };
    }
  }
  // The client ends its loop quietly when the connection is gone: only the finish reason tells a whole answer.
  if (finish === undefined) throw modelFault({ kind: 'cut' });
  const reason = endOf(finish, calls.size > 0);
  if (reason === 'tool_calls') {
    for (const [, call] of [...calls].sort(([a], [b]) => a - b)) {
      yield { type: 'tool_call', ...call, arguments: call.arguments === '' ? '{}' : call.arguments };
    }
  }
  yield { type: 'end', reason };
}

/** Adds a piece of a call. Calls come interleaved, by index; some endpoints leave the index or the id out. */
function addPart(calls: Map<number, CallParts>, part: ChatCompletionChunk.Choice.Delta.ToolCall): void {
  const index = part.index ?? (part.id === undefined ? Math.max(calls.size - 1, 0) : calls.size);
  const call = calls.get(index) ?? { id: `call_${index}`, name: '', arguments: '' };
  if (part.id) call.id = part.id;
  call.name += part.function?.name ?? '';
  call.arguments += part.function?.arguments ?? '';
  calls.set(index, call);
}

/** Not in OpenAI's own protocol, but in that of most compatible endpoints, under one of two names. */
function thinkingOf(delta: object | undefined): string | undefined {
  const { reasoning_content, reasoning }: { reasoning_content?: unknown; reasoning?: unknown } = delta ?? {};
  const text = reasoning_content ?? reasoning;
  return typeof text === 'string' && text !== '' ? text : undefined;
}

function endOf(finish: string, called: boolean): ModelEnd {
  switch (finish) {
    // A call that was cut by the length is not whole and must not run.
    case 'length':
      return 'length';
    case 'content_filter':
      return 'content_filter';
    // Some endpoints say `stop` after tool calls.
    default:
      return called ? 'tool_calls' : 'stop';
  }
}

function requestBody(
  request: ModelRequest,
  model: string,
  atOpenAi: boolean,
): ChatCompletionCreateParamsStreaming {
  const limit = request.maxOutputTokens;
  return {
    model,
    stream: true,
    stream_options: { include_usage: true },
    messages: [{ role: 'system', content: request.system }, ...request.messages.map(messageBody)],
    // OpenAI's newer models refuse the old name; many compatible endpoints know no other.
    ...(atOpenAi ? { max_completion_tokens: limit } : { max_tokens: limit }),
    ...(request.tools.length === 0
      ? {}
      : {
          tools: request.tools.map(({ name, description, parameters }) => ({
            type: 'function' as const,
            function: { name, description, parameters: { ...parameters } },
          })),
        }),
  };
}

function messageBody(message: ModelMessage): ChatCompletionMessageParam {
  switch (message.role) {
    case 'user':
      return { role: 'user', content: message.text };
    case 'tool':
      return { role: 'tool', tool_call_id: message.callId, content: message.text };
    case 'assistant': {
      const calls = message.toolCalls.map(({ id, name, arguments: text }) => ({
        type: 'function' as const,
        id,
        function: { name, arguments: text },
      }));
      return {
        role: 'assistant',
        content: message.text === '' && calls.length > 0 ? null : message.text,
        ...(calls.length > 0 ? { tool_calls: calls } : {}),
      };
    }
  }
}

/** Some endpoints refuse a filtered prompt with 400 and this code instead of ending a stream with it. */
function isContentFilter(error: unknown): boolean {
  return error instanceof OpenAI.APIError && error.status === 400 && error.code === 'content_filter';
}

function failureOf(error: unknown): unknown {
  if (error instanceof OpenAI.APIConnectionTimeoutError) return modelFault({ kind: 'timeout', cause: error });
  if (error instanceof OpenAI.APIConnectionError) return modelFault({ kind: 'connection', cause: error });
  if (error instanceof OpenAI.APIError) {
    if (error.status === undefined) {
      return modelFault({ kind: 'event', type: `${error.type ?? ''} ${error.code ?? ''}`, cause: error });
    }
    return modelFault({ kind: 'status', status: error.status, headers: error.headers, cause: error });
  }
  return streamFailure(error);
}
