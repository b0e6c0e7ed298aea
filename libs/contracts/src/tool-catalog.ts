import { Type } from 'typebox';
import { OpenObject, ToolName } from './fields.ts';

/** A tool that a tenant may call. `parameters` is the JSON Schema of its arguments; a record without value removes it. */
export const ToolCatalogued = Type.Object({
  name: ToolName,
  description: Type.String({ maxLength: 4096 }),
  parameters: OpenObject,
  idempotent: Type.Boolean({
    description: 'May run again for the same call when a crash hid what became of it',
  }),
  timeout_ms: Type.Integer({ minimum: 1 }),
  enabled: Type.Boolean(),
  version: Type.Integer({ minimum: 1, description: 'Rises with every change of the entry' }),
});
export type ToolCatalogued = Type.Static<typeof ToolCatalogued>;

export const toolCatalogSchema = 'tool.catalog.v1';
export const toolCatalogEvents = { 'tool.catalogued': ToolCatalogued } as const;
