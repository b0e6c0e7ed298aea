import fastifySwagger from '@fastify/swagger';
import fastifySwaggerUi from '@fastify/swagger-ui';
import { problemType } from './problem.ts';
import { docsPolicy } from './security-headers.ts';
import type { HttpServer } from './types.ts';

export interface OpenApiOptions {
  readonly title: string;
  readonly description: string;
  readonly version: string;
  /** Header that carries an API key. */
  readonly apiKeyHeader: string;
  readonly tags?: readonly { readonly name: string; readonly description: string }[];
}

const problemSchema = {
  type: 'object',
  description: 'RFC 9457 with an id that finds the log record.',
  required: [
    'type',
    'title',
    'status',
    'detail',
    'instance',
    'error_id',
    'error_code',
    'message',
    'timestamp',
    'request_id',
  ],
  properties: {
    type: { type: 'string' },
    title: { type: 'string' },
    status: { type: 'integer' },
    detail: { type: 'string' },
    instance: { type: 'string' },
    error_id: { type: 'string', format: 'uuid' },
    error_code: { type: 'string', pattern: '^[A-Z_]+$' },
    message: { type: 'string' },
    timestamp: { type: 'string', format: 'date-time' },
    request_id: { type: 'string' },
    trace_id: { type: 'string' },
    errors: {
      type: 'array',
      items: {
        type: 'object',
        required: ['path', 'message'],
        properties: { path: { type: 'string' }, message: { type: 'string' } },
      },
    },
  },
};

/**
 * Describes the server as OpenAPI 3.1 from the schemas of its routes: /openapi.json, and a page at /docs that calls this
 * very server. Must run before the routes are added. Each operation lists the problem reply.
 */
export function openApi(server: HttpServer, options: OpenApiOptions): void {
  const { title, description, version, apiKeyHeader, tags = [] } = options;
  // Called directly and not registered: a registered plugin loads after the routes that follow in the same tick.
  fastifySwagger(
    server,
    {
      openapi: {
        openapi: '3.1.0',
        info: { title, description, version },
        tags: [...tags, { name: 'health', description: 'For probes, scrapers and people; no credential.' }],
        components: {
          securitySchemes: {
            apiKey: { type: 'apiKey', in: 'header', name: apiKeyHeader },
            bearer: { type: 'http', scheme: 'bearer' },
          },
        },
        security: [{ apiKey: [] }, { bearer: [] }],
      },
      convertConstToEnum: false,
      transform: ({ schema, url, route }) =>
        route.config?.open === true && schema !== undefined
          ? { schema: { ...schema, security: [] }, url }
          : { schema, url },
      transformObject: (document) =>
        'openapiObject' in document ? withProblems(document.openapiObject) : document.swaggerObject,
    },
    () => undefined,
  );
  server.register(async (scope) => {
    scope.addHook('onRoute', (route) => {
      route.config = { ...route.config, open: true, quiet: true };
    });
    const page = {
      routePrefix: '/docs',
      staticCSP: docsPolicy,
      uiConfig: { deepLinking: true, tryItOutEnabled: true },
    };
    await fastifySwaggerUi(scope, page, () => undefined);
  });
  server.get('/openapi.json', { schema: { hide: true }, config: { open: true } }, () => server.swagger());
}

function withProblems<T extends object>(document: T): T {
  const reply = {
    description: 'Refused or failed.',
    content: {
      [problemType.split(';')[0] ?? problemType]: { schema: { $ref: '#/components/schemas/Problem' } },
    },
  };
  const copy: unknown = structuredClone(document);
  for (const path of Object.values(recordIn(copy, 'paths'))) {
    for (const operation of Object.values(recordOf(path))) {
      const responses = recordIn(operation, 'responses');
      if (operation !== null && typeof operation === 'object')
        Reflect.set(operation, 'responses', { ...responses, default: reply });
    }
  }
  const components = recordIn(copy, 'components');
  const schemas = { ...recordIn(components, 'schemas'), Problem: problemSchema };
  return { ...document, ...recordOf(copy), components: { ...components, schemas } };
}

function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

function recordIn(value: unknown, name: string): Record<string, unknown> {
  return recordOf(recordOf(value)[name]);
}
