import { asText, type Conversation, contentText, fieldList, isFields, type Message } from './conversation.ts';
import { tokensOf } from './rules.ts';
import type { Reply, StreamPiece, Wire } from './wire.ts';

function toMessage(message: Readonly<Record<string, unknown>>): Message | undefined {
  const text = contentText(message.content);
  if (message.role === 'user') return { role: 'user', text };
  if (message.role === 'tool') return { role: 'tool', callId: asText(message.tool_call_id), text };
  if (message.role !== 'assistant') return undefined;
  const calls = fieldList(message.tool_calls).map((call) => ({
    id: asText(call.id),
    name: isFields(call.function) ? asText(call.function.name) : '',
  }));
  return { role: 'assistant', text, calls };
}

function read(body: Readonly<Record<string, unknown>>): Conversation {
  const messages = fieldList(body.messages);
  const limit = body.max_completion_tokens ?? body.max_tokens;
  return {
    system: messages
      .filter(({ role }) => role === 'system' || role === 'developer')
      .map(({ content }) => contentText(content))
      .join('\n'),
    messages: messages.map(toMessage).filter((message) => message !== undefined),
    tools:
      body.tool_choice === 'none'
        ? []
        : fieldList(body.tools).map(({ function: tool }) => (isFields(tool) ? asText(tool.name) : '')),
    maxTokens: typeof limit === 'number' ? limit : undefined,
  };
}

function finishReason({ answer, cut }: Reply): string {
  if (cut) return 'length';
  return answer.calls.length > 0 ? 'tool_calls' : 'stop';
}

function usageOf({ inputTokens, outputTokens }: Reply) {
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
  };
}

function callsOf({ answer, id }: Reply): { id: string; name: string; arguments: string }[] {
  return answer.calls.map((call, index) => ({
    id: `call_${id}_${index}`,
    name: call.name,
    arguments: JSON.stringify(call.arguments),
  }));
}

function whole(reply: Reply): unknown {
  const calls = callsOf(reply);
  const { answer } = reply;
  return {
    id: `chatcmpl-${reply.id}`,
    object: 'chat.completion',
    created: reply.createdAt,
    model: reply.model,
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: answer.text === '' && calls.length > 0 ? null : answer.text,
          refusal: null,
          ...(answer.thinking === '' ? {} : { reasoning_content: answer.thinking }),
          ...(calls.length === 0
            ? {}
            : {
                tool_calls: calls.map((call) => ({
                  id: call.id,
                  type: 'function',
                  function: { name: call.name, arguments: call.arguments },
                })),
              }),
        },
        logprobs: null,
        finish_reason: finishReason(reply),
      },
    ],
    usage: usageOf(reply),
  };
}

function pieces(reply: Reply, body: Readonly<Record<string, unknown>>): StreamPiece[] {
  const head = {
    id: `chatcmpl-${reply.id}`,
    object: 'chat.completion.chunk',
    created: reply.createdAt,
    model: reply.model,
  };
  const chunk = (delta: unknown, finish: string | null = null) =>
    `data: ${JSON.stringify({ ...head, choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }] })}\n\n`;
  const { answer } = reply;
  const includeUsage = isFields(body.stream_options) && body.stream_options.include_usage === true;
  return [
    { bytes: chunk({ role: 'assistant', content: '' }), token: false },
    ...tokensOf(answer.thinking).map((token) => ({
      bytes: chunk({ reasoning_content: token }),
      token: true,
    })),
    ...tokensOf(answer.text).map((token) => ({ bytes: chunk({ content: token }), token: true })),
    ...callsOf(reply).flatMap((call, index) => callPieces(call, index, chunk)),
    { bytes: chunk({}, finishReason(reply)), token: false },
    ...(includeUsage
      ? [
          {
            bytes: `data: ${JSON.stringify({ ...head, choices: [], usage: usageOf(reply) })}\n\n`,
            token: false,
          },
        ]
      : []),
    { bytes: 'data: [DONE]\n\n', token: false },
  ];
}

/** As the real API does it: the name first, the arguments in several parts that are no JSON by themselves. */
function callPieces(
  call: { id: string; name: string; arguments: string },
  index: number,
  chunk: (delta: unknown) => string,
): StreamPiece[] {
  const half = Math.ceil(call.arguments.length / 2);
  const part = (text: string) => chunk({ tool_calls: [{ index, function: { arguments: text } }] });
  return [
    {
      bytes: chunk({
        tool_calls: [{ index, id: call.id, type: 'function', function: { name: call.name, arguments: '' } }],
      }),
      token: false,
    },
    { bytes: part(call.arguments.slice(0, half)), token: true },
    { bytes: part(call.arguments.slice(half)), token: true },
  ];
}

/** POST /v1/chat/completions. */
export const openaiWire: Wire = {
  read,
  whole,
  pieces,
  malformedPiece: 'data: {"id":"chatcmpl-broken","choices":[{"delta":{"content":\n\n',
  failure: (status, message) => ({
    error: { message, type: status === 429 ? 'rate_limit_error' : 'server_error', param: null, code: null },
  }),
};
